"""Direct preference optimisation by hand."""

import math

import pytest
import torch

from core.loss import PairStats
from core.objectives.dpo import DPO


def stats(chosen: float, rejected: float, reference_chosen: float = 0.0, reference_rejected: float = 0.0) -> PairStats:
    values = (chosen, rejected, reference_chosen, reference_rejected, 4.0, 2.0)
    return PairStats(*(torch.tensor([value]) for value in values))


def test_sigmoid() -> None:
    """Gains of 1 and -1 nats, beta 0.5: - ln sigmoid(0.5 * 2)."""
    loss = DPO(beta=0.5).loss(stats(-3.0, -6.0, -4.0, -5.0))
    assert float(loss.sum) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert float(loss.count) == 1.0
    assert float(loss.metrics["reward_accuracy"]) == 1.0
    assert float(loss.metrics["reward_margin"]) == pytest.approx(1.0)


def test_at_the_start_it_is_the_logarithm_of_two() -> None:
    loss = DPO().loss(stats(-3.0, -6.0, -3.0, -6.0))
    assert float(loss.sum) == pytest.approx(math.log(2), abs=1e-6)
    assert float(loss.metrics["reward_accuracy"]) == 0.0


def test_label_smoothing_mixes_in_the_other_order() -> None:
    smoothed = DPO(beta=0.5, label_smoothing=0.1).loss(stats(-3.0, -6.0, -4.0, -5.0))
    forward, backward = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert float(smoothed.sum) == pytest.approx(0.9 * forward + 0.1 * backward, abs=1e-6)


def test_ipo_and_length_normalised() -> None:
    """Gains 1 over 4 tokens and -1 over 2: a margin of 0.25 + 0.5 a token."""
    found = stats(-3.0, -6.0, -4.0, -5.0)
    assert float(DPO(beta=0.5, variant="ipo").loss(found).sum) == pytest.approx((0.75 - 1.0) ** 2, abs=1e-6)
    normalised = DPO(beta=2.0, normalisation="length").loss(found)
    assert float(normalised.sum) == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)
