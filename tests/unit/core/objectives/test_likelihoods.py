"""Objectives on numbers that one can check by hand."""

import math

import pytest
import torch

from core.loss import Loss, TokenStats
from core.objectives.causal_lm import CausalLM
from core.objectives.supervised import Supervised


def stats(logp: list[float], weight: list[float], *, log_z: list[float] | None = None) -> TokenStats:
    return TokenStats(
        logp_N=torch.tensor(logp, requires_grad=True),
        log_z_N=torch.tensor(log_z or [0.0] * len(logp), requires_grad=True),
        weight_N=torch.tensor(weight),
        correct_N=torch.tensor([1.0] + [0.0] * (len(logp) - 1)),
    )


def mean(loss: Loss) -> float:
    return float((loss.sum / loss.count).detach())


def test_cross_entropy_of_two_distributions() -> None:
    """p = (0.6, 0.4) as weights, q = (0.7, 0.3) as predictions: 0.6956 nats."""
    loss = CausalLM().loss(stats([math.log(0.7), math.log(0.3)], [0.6, 0.4]))
    assert mean(loss) == pytest.approx(0.6956, abs=5e-5)
    assert float(loss.count) == pytest.approx(1.0)


@pytest.mark.parametrize("objective", [CausalLM(), Supervised()])
def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(objective: CausalLM | Supervised) -> None:
    loss = objective.loss(stats([-math.log(50)] * 4, [1.0] * 4))
    assert mean(loss) == pytest.approx(math.log(50))
    assert float(loss.metrics["token_accuracy"] / loss.count) == pytest.approx(0.25)


@pytest.mark.parametrize("objective", [CausalLM(), Supervised()])
def test_the_gradient_raises_each_target_by_its_weight(objective: CausalLM | Supervised) -> None:
    given = stats([-1.0, -2.0, -3.0], [1.0, 0.5, 2.0])
    objective.loss(given).sum.backward()
    assert given.logp_N.grad is not None
    assert given.logp_N.grad.tolist() == [-1.0, -0.5, -2.0]


def test_z_loss_pulls_the_normaliser_towards_one() -> None:
    given = stats([-1.0, -1.0], [1.0, 2.0], log_z=[3.0, -0.5])
    loss = CausalLM(z_loss=0.1).loss(given)
    assert float(loss.sum.detach()) == pytest.approx(3.0 + 0.1 * (9.0 + 2 * 0.25))
    loss.sum.backward()
    assert given.log_z_N.grad is not None
    assert given.log_z_N.grad.tolist() == pytest.approx([0.6, -0.2])


def test_weights_can_be_split_in_any_way() -> None:
    """Sum and count add up: micro-batches and ranks may cut where they like."""
    logp, weight = [-0.3, -1.1, -2.0, -0.7], [1.0, 0.5, 2.0, 1.0]
    whole = CausalLM().loss(stats(logp, weight))
    parts = [CausalLM().loss(stats(logp[a:b], weight[a:b])) for a, b in ((0, 1), (1, 4))]
    assert float(sum(part.sum.detach() for part in parts)) == pytest.approx(float(whole.sum.detach()))
    assert float(sum(part.count for part in parts)) == pytest.approx(float(whole.count))
