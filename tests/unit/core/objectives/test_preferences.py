"""Objectives that learn from preferred answers, by hand."""

import math

import pytest
import torch
from torch import Tensor

from core.loss import JudgedStats, PairStats, ScoreStats
from core.objectives.kto import KTO
from core.objectives.orpo import ORPO
from core.objectives.reward import Reward
from core.objectives.simpo import SimPO


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair(chosen: float, rejected: float) -> PairStats:
    """Answers of 4 and 2 tokens."""
    values = (chosen, rejected, 0.0, 0.0, 4.0, 2.0)
    return PairStats(*(torch.tensor([value]) for value in values))


def test_orpo() -> None:
    """Mean probabilities of 1/2 and 1/4 have odds of 1 and 1/3: - ln(1/2) - 0.1 ln sigmoid(ln 3)."""
    loss = ORPO(odds_ratio_weight=0.1).loss(pair(4 * math.log(0.5), 2 * math.log(0.25)))
    assert float(loss.sum) == pytest.approx(math.log(2) - 0.1 * math.log(0.75), abs=1e-6)
    assert float(loss.metrics["log_odds_ratio"]) == pytest.approx(math.log(3), abs=1e-6)
    assert float(loss.metrics["nll"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(loss.metrics["reward_accuracy"]) == 1.0


def test_orpo_of_an_answer_that_is_certain_is_finite() -> None:
    chosen = torch.tensor([0.0], requires_grad=True)
    stats = PairStats(chosen, torch.tensor([-5.0]), *[torch.zeros(1)] * 2, *[torch.ones(1)] * 2)
    loss = ORPO().loss(stats).sum
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert chosen.grad is not None
    assert math.isfinite(float(chosen.grad))


def test_simpo() -> None:
    """Rewards 2 * -0.75 and 2 * -3 with a target margin of 1: - ln sigmoid(4.5 - 1)."""
    loss = SimPO(beta=2.0, gamma=1.0).loss(pair(-3.0, -6.0))
    assert float(loss.sum) == pytest.approx(-math.log(sigmoid(3.5)), abs=1e-6)
    assert float(loss.metrics["reward_margin"]) == pytest.approx(4.5)
    assert float(loss.metrics["chosen_reward"]) == pytest.approx(-1.5)


def test_reward() -> None:
    """Scores of 1.5 and -0.5, a margin of 0.5 and a centre of 0.1: - ln sigmoid(2 - 0.5) + 0.1 * 1."""
    stats = ScoreStats(torch.tensor([1.5, 0.0]), torch.tensor([-0.5, 0.0]))
    loss = Reward(margin=0.5, centre=0.1).loss(stats)
    assert float(loss.sum) == pytest.approx(-math.log(sigmoid(1.5)) - math.log(sigmoid(-0.5)) + 0.1, abs=1e-6)
    assert float(loss.metrics["reward_accuracy"] / loss.count) == 0.75, "what is equal is half right"
    assert float(Reward().loss(stats).sum) == pytest.approx(-math.log(sigmoid(2.0)) + math.log(2), abs=1e-6)


def judged(answer: list[float], reference: list[float], good: list[float], divergence: float) -> JudgedStats:
    def tensor(values: list[float]) -> Tensor:
        return torch.tensor(values, requires_grad=True)

    return JudgedStats(tensor(answer), torch.tensor(reference), torch.tensor(good), torch.tensor(divergence))


def test_kto() -> None:
    """Gains of 3 (good), 1 and -2 (bad) nats over the reference, which stands 1 nat away; beta 0.5."""
    stats = judged([-1.0, -3.0, -7.0], [-4.0, -4.0, -5.0], [1.0, 0.0, 0.0], 1.0)
    loss = KTO(beta=0.5, good_weight=1.5, bad_weight=0.5).loss(stats)
    by_hand = 1.5 * (1 - sigmoid(1.0)) + 0.5 * (1 - sigmoid(0.0)) + 0.5 * (1 - sigmoid(1.5))
    assert float(loss.sum.detach()) == pytest.approx(by_hand, abs=1e-6)
    assert float(loss.count) == 3.0
    assert float(loss.metrics["divergence"] / loss.count) == 1.0
    loss.sum.backward()
    assert stats.answer_E.grad is not None
    slope = [-1.5 * sigmoid(1.0) * (1 - sigmoid(1.0)), 0.5 * 0.25, 0.5 * sigmoid(1.5) * (1 - sigmoid(1.5))]
    assert stats.answer_E.grad.tolist() == pytest.approx([0.5 * s for s in slope], abs=1e-6)


def test_kto_tells_rewards_of_both_groups_and_guessing_is_half_right() -> None:
    stats = judged([-1.0, -3.0, -7.0], [-4.0, -4.0, -5.0], [1.0, 0.0, 0.0], 0.0)
    objective = KTO(beta=0.5)
    counts = {name: value.tolist() for name, value in objective.loss(stats).counts.items()}
    assert objective.summary(counts, ()) == pytest.approx(
        {"good_reward": 1.5, "bad_reward": -0.25, "reward_margin": 1.75, "reward_accuracy": 0.75}
    )
    all_good = judged([-1.0, -3.0], [-4.0, -4.0], [1.0, 0.0], 0.0)
    counts = {name: value.tolist() for name, value in objective.loss(all_good).counts.items()}
    assert objective.summary(counts, ())["reward_accuracy"] == 0.5


def test_kto_with_one_group_only() -> None:
    counts = {name: v.tolist() for name, v in KTO().loss(judged([-1.0], [-2.0], [1.0], 0.0)).counts.items()}
    assert KTO().summary(counts, ())["reward_accuracy"] == 1.0
