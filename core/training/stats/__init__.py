"""From a batch to what an objective reads. One file for each kind of stats; these dicts are the list.

Some objectives look at the whole batch before any micro-batch of it is computed: a `survey` goes through it without a
gradient, and `compute` gets what it found.
"""

from collections.abc import Callable
from typing import Any

import torch

from core.data.batches import RowBatch
from core.loss import (
    AnswerStats,
    EmbeddingStats,
    JudgedStats,
    LabelStats,
    MaskedStats,
    ObjectiveSpec,
    PairStats,
    ScoreStats,
    SpanStats,
    TagStats,
    TeacherStats,
    TokenStats,
)
from core.training import random_state
from core.training.stats import (
    answers,
    embeddings,
    judged,
    labels,
    masked,
    pairs,
    scores,
    spans,
    tags,
    teacher,
    tokens,
)
from core.training.stats.forward import Forward
from core.training.stats.whole import Seen

STATS: dict[type, Callable[..., Any]] = {
    TokenStats: tokens.compute,
    MaskedStats: masked.compute,
    PairStats: pairs.compute,
    JudgedStats: judged.compute,
    ScoreStats: scores.compute,
    TeacherStats: teacher.compute,
    AnswerStats: answers.compute,
    LabelStats: labels.compute,
    TagStats: tags.compute,
    SpanStats: spans.compute,
    EmbeddingStats: embeddings.compute,
}
"""compute(objective, forward, batch), with `Seen` where there is a survey"""

Survey = Callable[[ObjectiveSpec, Forward, RowBatch, int], Any]
SURVEYS: dict[type, Survey] = {
    JudgedStats: judged.survey,
    EmbeddingStats: embeddings.survey,
}
"""survey(objective, forward, whole batch on the CPU, rows of a micro-batch)"""

__all__ = ["Forward", "Seen", "stats_of", "survey"]


def survey(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, micro_batch: int) -> Any:
    """What `objective` must know of the whole batch; None for most. The random numbers are left as they were."""
    if objective.reads not in SURVEYS:
        return None
    before = random_state.read()
    with torch.no_grad():
        found = SURVEYS[objective.reads](objective, forward, batch, micro_batch)
    random_state.restore(before)
    return found


def stats_of(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, seen: Seen | None = None) -> Any:
    """What `objective` reads (`objective.reads`); None where nothing in the batch is to be learned.

    `batch` lies on the model's device; `seen` is given where the objective has a survey.
    """
    compute = STATS[objective.reads]
    return compute(objective, forward, batch) if seen is None else compute(objective, forward, batch, seen)
