"""`MaskedStats`: likelihoods of hidden tokens, and what a second head says of each example's two texts."""

from core.data.batches import RowBatch
from core.loss import MaskedStats, ObjectiveSpec
from core.training.stats.forward import Forward
from core.training.stats.pairs import answer_sums


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> MaskedStats | None:
    (lane,), model = batch.lanes, forward.model
    if not lane.weights_BT.any():
        return None
    hidden_BTD = forward.hidden(model, lane)
    tokens, _ = forward.learned(model, lane, hidden_BTD=hidden_BTD)
    if not model.config.next_sentence:
        return MaskedStats(tokens)
    there = batch.documents_BE.flatten() >= 0
    with forward.autocast(lane):
        said_BE2 = model.per_example(hidden_BTD, lane.segments_BT, num_examples=batch.documents_BE.shape[1])
    return MaskedStats(
        tokens,
        follows_E2=said_BE2.flatten(0, 1)[there].float(),
        follows_E=batch.labels_BEC.flatten(0, 1)[there][:, 0],
        hidden_E=answer_sums(lane, batch, lane.weights_BT.flatten())[there],
    )
