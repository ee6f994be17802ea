"""`AnswerStats`: how likely the tokens of the model's own answers are now, and what was found out about each answer.

`core.training.rollouts` makes the batches: an answer a row, with `FACTS` as its labels.

Legend: B rows, T positions, E answers, N their tokens, D hidden size.
"""

from torch import Tensor

from core.data.batches import RowBatch
from core.loss import AnswerStats
from core.models.transformer import Transformer
from core.objectives.grpo import GRPO
from core.training.likelihood import token_stats
from core.training.stats.forward import Forward

FACTS = ("advantage", "reward", "deviation", "mean_tokens", "finished", "ungraded")
"""labels of an answer, in their order"""


def compute(objective: GRPO, forward: Forward, batch: RowBatch) -> AnswerStats:
    lane, drawn_BT = batch.lanes[0], batch.drawn_logp_BT
    assert drawn_BT is not None
    learned_N = lane.weights_BT.flatten().nonzero()[:, 0]
    answer_N = learned_N // lane.ids_BT.shape[1]
    logp_N = likelihoods(objective, forward, forward.model, batch, learned_N)
    reference_logp_N = logp_N.detach()
    with forward.other() as other:
        if other is not None:
            reference_logp_N = likelihoods(objective, forward, other, batch, learned_N)
    facts = dict(zip(FACTS, batch.labels_BEC[:, 0].unbind(-1), strict=True))
    return AnswerStats(
        logp_N=logp_N,
        drawn_logp_N=drawn_BT.flatten()[learned_N],
        reference_logp_N=reference_logp_N,
        answer_N=answer_N,
        advantage_E=facts["advantage"],
        reward_E=facts["reward"],
        deviation_E=facts["deviation"],
        tokens_E=lane.weights_BT.sum(1),
        mean_tokens=facts["mean_tokens"][0],
        finished_E=facts["finished"],
        ungraded_E=facts["ungraded"],
    )


def likelihoods(objective: GRPO, forward: Forward, model: Transformer, batch: RowBatch, learned_N: Tensor) -> Tensor:
    """log-probabilities of the learned targets, at the temperature that they were drawn at."""
    lane = batch.lanes[0]
    hidden_ND = forward.hidden(model, lane).flatten(0, 1)[learned_N]
    return token_stats(
        model.features(hidden_ND) / objective.temperature,
        model.lm_head.weight,
        lane.targets_BT.flatten()[learned_N],
        lane.weights_BT.flatten()[learned_N],
        dtype=forward.dtype,
    ).logp_N
