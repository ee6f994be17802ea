"""The training objectives. One file each; this union is the list."""

from typing import Annotated

from pydantic import Field

from core.loss import ObjectiveSpec
from core.objectives.causal_lm import CausalLM
from core.objectives.dpo import DPO
from core.objectives.supervised import Supervised

Objective = Annotated[CausalLM | Supervised | DPO, Field(discriminator="kind")]
OBJECTIVES: dict[str, type[ObjectiveSpec]] = {
    "causal_lm": CausalLM,
    "supervised": Supervised,
    "dpo": DPO,
}
