"""Direct preference optimisation by hand."""

import math

import pytest
import torch
from pydantic import ValidationError

from core.loss import PairStats
from core.objectives.dpo import DPO


def stats(chosen: float, rejected: float, reference_chosen: float = 0.0, reference_rejected: float = 0.0) -> PairStats:
    """Answers of 4 and 2 tokens."""
    values = (chosen, rejected, reference_chosen, reference_rejected, 4.0, 2.0)
    return PairStats(*(torch.tensor([value]) for value in values))


def test_sigmoid() -> None:
    """Gains of 1 and -1 nats, beta 0.5: - ln sigmoid(0.5 * 2)."""
    loss = DPO(beta=0.5).loss(stats(-3.0, -6.0, -4.0, -5.0))
    assert float(loss.sum) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert float(loss.count) == 1.0
    assert {name: float(value) for name, value in loss.metrics.items()} == pytest.approx(
        {"reward_accuracy": 1.0, "reward_margin": 1.0, "chosen_reward": 0.5, "rejected_reward": -0.5}
    )


def test_at_the_start_it_is_the_logarithm_of_two_and_nothing_is_decided() -> None:
    loss = DPO().loss(stats(-3.0, -6.0, -3.0, -6.0))
    assert float(loss.sum) == pytest.approx(math.log(2), abs=1e-6)
    assert float(loss.metrics["reward_accuracy"]) == 0.5


def test_label_smoothing_mixes_in_the_other_order() -> None:
    smoothed = DPO(beta=0.5, label_smoothing=0.1).loss(stats(-3.0, -6.0, -4.0, -5.0))
    forward, backward = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert float(smoothed.sum) == pytest.approx(0.9 * forward + 0.1 * backward, abs=1e-6)


def test_ipo_wants_a_margin_of_its_own_and_no_more() -> None:
    """The gains differ by 2 nats; beta 0.5 wants 1, beta 0.25 wants 2."""
    found = stats(-3.0, -6.0, -4.0, -5.0)
    assert float(DPO(beta=0.5, variant="ipo").loss(found).sum) == pytest.approx(1.0, abs=1e-6)
    assert float(DPO(beta=0.25, variant="ipo").loss(found).sum) == pytest.approx(0.0, abs=1e-6)


def test_normalised_by_length() -> None:
    """Gains 1 over 4 tokens and -1 over 2: a margin of 0.25 + 0.5 a token."""
    found = stats(-3.0, -6.0, -4.0, -5.0)
    normalised = DPO(beta=2.0, normalisation="length").loss(found)
    assert float(normalised.sum) == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)
    ipo = DPO(beta=0.5, variant="ipo", normalisation="length").loss(found)
    assert float(ipo.sum) == pytest.approx((0.75 - 1.0) ** 2, abs=1e-6)


def test_without_a_reference_the_answers_themselves_are_compared() -> None:
    objective = DPO(beta=0.5, reference="none")
    assert not objective.needs_reference
    assert DPO().needs_reference
    assert float(objective.loss(stats(-3.0, -6.0)).sum) == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)


def test_ipo_refuses_label_smoothing() -> None:
    with pytest.raises(ValidationError, match="no label smoothing"):
        DPO(variant="ipo", label_smoothing=0.1)
