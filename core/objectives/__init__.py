"""The training objectives. One file each; this union is the list."""

from typing import Annotated

from pydantic import Field

from core.loss import ObjectiveSpec
from core.objectives.causal_lm import CausalLM
from core.objectives.contrastive import Contrastive
from core.objectives.distillation import Distillation
from core.objectives.dpo import DPO
from core.objectives.fill_in_the_middle import FillInTheMiddle
from core.objectives.grpo import GRPO
from core.objectives.kto import KTO
from core.objectives.masked_lm import MaskedLM
from core.objectives.orpo import ORPO
from core.objectives.prefix_lm import PrefixLM
from core.objectives.question_answering import QuestionAnswering
from core.objectives.regression import Regression
from core.objectives.reward import Reward
from core.objectives.sequence_classification import SequenceClassification
from core.objectives.sequence_to_sequence import SequenceToSequence
from core.objectives.simpo import SimPO
from core.objectives.span_corruption import SpanCorruption
from core.objectives.supervised import Supervised
from core.objectives.token_classification import TokenClassification

Objective = Annotated[
    CausalLM
    | MaskedLM
    | SpanCorruption
    | PrefixLM
    | FillInTheMiddle
    | SequenceToSequence
    | Supervised
    | SequenceClassification
    | TokenClassification
    | QuestionAnswering
    | Regression
    | Contrastive
    | DPO
    | ORPO
    | KTO
    | SimPO
    | Reward
    | Distillation
    | GRPO,
    Field(discriminator="kind"),
]
OBJECTIVES: dict[str, type[ObjectiveSpec]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "span_corruption": SpanCorruption,
    "prefix_lm": PrefixLM,
    "fill_in_the_middle": FillInTheMiddle,
    "sequence_to_sequence": SequenceToSequence,
    "supervised": Supervised,
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "regression": Regression,
    "contrastive": Contrastive,
    "dpo": DPO,
    "orpo": ORPO,
    "kto": KTO,
    "simpo": SimPO,
    "reward": Reward,
    "distillation": Distillation,
    "grpo": GRPO,
}
