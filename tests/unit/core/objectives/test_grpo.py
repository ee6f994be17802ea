"""Group relative policy optimisation, worked out by hand."""

import math
from typing import Any

import pytest
import torch

from core.loss import AnswerStats
from core.objectives.grpo import GRPO

GRADER = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{sample.output_text}}", "reference": "x"}


def objective(**fields: Any) -> GRPO:
    return GRPO.model_validate({"grader": GRADER} | fields)


def stats(**fields: Any) -> AnswerStats:
    """Two answers: the first has two tokens, which became twice as likely and stayed as they were; the second has one,
    which became half as likely."""
    given = {
        "logp_N": torch.tensor([0.5, 0.2, 0.4]).log(),
        "drawn_logp_N": torch.tensor([0.25, 0.2, 0.8]).log(),
        "reference_logp_N": torch.tensor([0.5, 0.4, 0.2]).log(),
        "answer_N": torch.tensor([0, 0, 1]),
        "advantage_E": torch.tensor([1.0, -2.0]),
        "reward_E": torch.tensor([0.75, 0.25]),
        "deviation_E": torch.tensor([0.25, 0.25]),
        "tokens_E": torch.tensor([2.0, 1.0]),
        "mean_tokens": torch.tensor(1.5),
        "finished_E": torch.tensor([0.0, 1.0]),
        "ungraded_E": torch.tensor([0.0, 0.0]),
    }
    return AnswerStats(**(given | fields))


GAINS = (1.2, 1.0, 0.8 * -2.0)
"""2 is clipped to 1.2; 0.5 to 0.8, because that is the worse for a bad answer"""
DIVERGENCES = (0.0, 2 - math.log(2) - 1, 0.5 - math.log(0.5) - 1)


def test_by_hand() -> None:
    loss = objective(beta=0.1).loss(stats())
    first, second, third = (0.1 * k - gain for k, gain in zip(DIVERGENCES, GAINS, strict=True))
    assert float(loss.sum) == pytest.approx((first + second) / 2 + third)
    assert float(loss.count) == 2
    assert {name: float(value) for name, value in loss.metrics.items()} == pytest.approx(
        {
            "reward": 1.0,
            "reward_deviation": 0.5,
            "divergence": DIVERGENCES[1] / 2 + DIVERGENCES[2],
            "clipped": 1 / 2 + 1,
            "answer_tokens": 3.0,
            "finished": 1.0,
            "ungraded": 0.0,
        }
    )
    assert set(loss.metrics) | {"loss"} == set(GRPO.metrics)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, -(1.2 + 1.0) / 2 + 1.6),
        ({"clip": 0.4}, -(1.4 + 1.0) / 2 + 1.2),
        ({"clip_above": 0.6}, -(1.6 + 1.0) / 2 + 1.6),
        ({"normalisation": "batch"}, (-(1.2 + 1.0) + 1.6) / 1.5),
        ({"normalisation": "limit", "max_tokens": 4}, (-(1.2 + 1.0) + 1.6) / 4),
    ],
)
def test_variants_without_a_reference(fields: dict[str, Any], expected: float) -> None:
    assert float(objective(beta=0.0, **fields).loss(stats()).sum) == pytest.approx(expected)


def test_the_gradient_is_that_of_what_is_not_clipped() -> None:
    logp_N = torch.tensor([0.5, 0.2, 0.4]).log().requires_grad_()
    objective(beta=0.0).loss(stats(logp_N=logp_N)).sum.backward()  # type: ignore[no-untyped-call]
    assert logp_N.grad is not None
    assert logp_N.grad.tolist() == pytest.approx([0.0, -1.0 / 2, 0.0])


def test_on_policy_it_is_the_gradient_of_the_likelihood_weighted_by_the_advantage() -> None:
    logp_N = torch.tensor([0.5, 0.2, 0.4]).log().requires_grad_()
    given = stats(logp_N=logp_N, drawn_logp_N=logp_N.detach(), reference_logp_N=logp_N.detach())
    loss = objective(beta=0.3).loss(given)
    loss.sum.backward()  # type: ignore[no-untyped-call]
    assert float(loss.sum.detach()) == pytest.approx(-(1.0 - 2.0))
    assert logp_N.grad is not None
    assert logp_N.grad.tolist() == pytest.approx([-1 / 2, -1 / 2, 2.0])


def test_what_rows_must_have() -> None:
    given = objective(grader=GRADER | {"reference": "{{item.b}} {{item.a}}"})
    assert given.needed_fields == "a\nb"
    assert objective().needed_fields == ""
    assert (objective().needs_reference, objective(beta=0.0).needs_reference) == (True, False)
