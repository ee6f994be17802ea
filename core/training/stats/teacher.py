"""`TeacherStats`: likelihoods of the learned targets, and how far the model's distributions are from the teacher's.

Legend: D hidden size, C the teacher's hidden size, N positions that are learned.
"""

from core.data.batches import RowBatch
from core.loss import ObjectiveSpec, TeacherStats
from core.objectives.distillation import Distillation
from core.training.divergence import Output, token_divergence
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> TeacherStats | None:
    assert isinstance(objective, Distillation)
    lane = batch.lanes[-1]
    if not lane.weights_BT.any():
        return None
    learned_N = lane.weights_BT.flatten().nonzero()[:, 0]
    hidden_ND = forward.hidden(forward.model, lane).flatten(0, 1)[learned_N]
    with forward.other() as teacher:
        assert teacher is not None
        teacher_NC = forward.hidden(teacher, lane).flatten(0, 1)[learned_N]
    return token_divergence(
        Output(hidden_ND, forward.model.lm_head.weight),
        Output(teacher_NC, teacher.lm_head.weight),
        lane.targets_BT.flatten()[learned_N],
        lane.weights_BT.flatten()[learned_N],
        temperature=objective.temperature,
        divergence=objective.divergence,
        dtype=forward.dtype,
    )
