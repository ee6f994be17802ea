"""The loss of both ends by hand, and the likeliest span against all spans tried one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.loss import SpanStats
from core.objectives.question_answering import QuestionAnswering, best_spans

NO = -math.inf


def stats(start: object, end: object, at: tuple[int, int]) -> SpanStats:
    return SpanStats(torch.tensor([start]), torch.tensor([end]), torch.tensor([at[0]]), torch.tensor([at[1]]))


def test_by_hand() -> None:
    """Places 1 and 2 are the question's."""
    start, end = [0.0, NO, NO, 2.0, 0.0, 0.0], [0.0, NO, NO, 0.0, 0.0, 1.0]
    loss = QuestionAnswering().loss(stats(start, end, (3, 4)))
    by_hand = (math.log(math.exp(2) + 3) - 2 + math.log(math.e + 3)) / 2
    assert float(loss.sum) == pytest.approx(by_hand, abs=1e-6)
    assert float(loss.count) == 1.0
    assert float(loss.metrics["exact_match"]) == 0.0  # 3 to 5 is said
    assert float(loss.metrics["span_f1"]) == pytest.approx(2 * 2 / (3 + 2))
    right = QuestionAnswering().loss(stats(start, end, (3, 5)))
    assert float(right.metrics["exact_match"]) == float(right.metrics["span_f1"]) == 1.0
    nowhere = QuestionAnswering().loss(stats(start, end, (0, 0)))
    assert float(nowhere.metrics["exact_match"]) == float(nowhere.metrics["span_f1"]) == 0.0


@given(
    st.integers(1, 8).flatmap(
        lambda size: st.tuples(
            *[st.lists(st.integers(-9, 9), min_size=size, max_size=size)] * 2,
            st.lists(st.booleans(), min_size=size, max_size=size),
        )
    )
)
def test_the_likeliest_span_is_that_of_all(case: tuple[list[int], list[int], list[bool]]) -> None:
    starts, ends, allowed = case
    allowed[0] = True
    masked = [[float(x) if a else NO for x, a in zip(values, allowed, strict=True)] for values in (starts, ends)]
    start_E, end_E, score_E = best_spans(torch.tensor([masked[0]]), torch.tensor([masked[1]]))
    size = len(starts)
    spans = [(0, 0), *((i, j) for i in range(1, size) for j in range(i, size))]
    scores = {(i, j): masked[0][i] + masked[1][j] for i, j in spans}
    best = max(scores.values())
    assert float(score_E) == best == scores[int(start_E), int(end_E)]
