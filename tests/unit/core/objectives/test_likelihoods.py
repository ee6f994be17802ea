"""Objectives that learn tokens, on numbers that one can check by hand."""

import math
from typing import Any

import pytest
import torch

from core.loss import Loss, TokenObjective, TokenStats
from core.objectives import OBJECTIVES
from core.objectives.causal_lm import CausalLM
from core.objectives.sequence_to_sequence import SequenceToSequence
from core.objectives.supervised import Supervised

TOKEN_OBJECTIVES = [cls for cls in OBJECTIVES.values() if issubclass(cls, TokenObjective)]


def stats(logp: list[float], weight: list[float], *, log_z: list[float] | None = None, **more: Any) -> TokenStats:
    return TokenStats(
        logp_N=torch.tensor(logp, requires_grad=True),
        log_z_N=torch.tensor(log_z or [0.0] * len(logp), requires_grad=True),
        weight_N=torch.tensor(weight),
        correct_N=torch.tensor([1.0] + [0.0] * (len(logp) - 1)),
        **more,
    )


def mean(loss: Loss) -> float:
    return float((loss.sum / loss.count).detach())


def test_all_of_them() -> None:
    assert {cls.__name__ for cls in TOKEN_OBJECTIVES} == {
        "CausalLM", "PrefixLM", "FillInTheMiddle", "SpanCorruption", "SequenceToSequence", "Supervised",
    }  # fmt: skip


def test_cross_entropy_of_two_distributions() -> None:
    """p = (0.6, 0.4) as weights, q = (0.7, 0.3) as predictions: -(0.6 ln 0.7 + 0.4 ln 0.3) = 0.6956 nats."""
    loss = CausalLM().loss(stats([math.log(0.7), math.log(0.3)], [0.6, 0.4]))
    assert mean(loss) == pytest.approx(0.6956, abs=5e-5)
    assert float(loss.count) == pytest.approx(1.0)


@pytest.mark.parametrize("objective", TOKEN_OBJECTIVES)
def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(objective: type[TokenObjective]) -> None:
    loss = objective().loss(stats([-math.log(50)] * 4, [1.0] * 4))
    assert mean(loss) == pytest.approx(math.log(50))
    assert float(loss.metrics["token_accuracy"] / loss.count) == pytest.approx(0.25)


@pytest.mark.parametrize("objective", TOKEN_OBJECTIVES)
def test_the_gradient_raises_each_target_by_its_weight(objective: type[TokenObjective]) -> None:
    given = stats([-1.0, -2.0, -3.0], [1.0, 0.5, 2.0])
    objective().loss(given).sum.backward()
    assert given.logp_N.grad is not None
    assert given.logp_N.grad.tolist() == [-1.0, -0.5, -2.0]


@pytest.mark.parametrize("objective", TOKEN_OBJECTIVES)
def test_z_loss_pulls_the_normaliser_towards_one(objective: type[TokenObjective]) -> None:
    given = stats([-1.0, -1.0], [1.0, 2.0], log_z=[3.0, -0.5])
    loss = objective(z_loss=0.1).loss(given)
    assert float(loss.sum.detach()) == pytest.approx(3.0 + 0.1 * (9.0 + 2 * 0.25))
    assert float(loss.metrics["nll"].detach()) == pytest.approx(3.0)
    loss.sum.backward()
    assert given.log_z_N.grad is not None
    assert given.log_z_N.grad.tolist() == pytest.approx([0.6, -0.2])


@pytest.mark.parametrize("objective", TOKEN_OBJECTIVES)
def test_label_smoothing_is_the_cross_entropy_of_smoothed_labels(objective: type[TokenObjective]) -> None:
    """q = (0.7, 0.2, 0.1), the first is right, a tenth is spread over the three: p = (0.9 + 1/30, 1/30, 1/30)."""
    q = [0.7, 0.2, 0.1]
    mean_logp = torch.tensor([sum(map(math.log, q)) / 3])
    loss = objective(label_smoothing=0.1).loss(stats([math.log(0.7)], [2.0], mean_logp_N=mean_logp))
    p = [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]
    by_hand = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    assert by_hand == pytest.approx(0.4633, abs=5e-5)
    assert mean(loss) == pytest.approx(by_hand)
    assert float((loss.metrics["nll"] / loss.count).detach()) == pytest.approx(-math.log(0.7))


def test_the_entropy_of_predictions_is_reported_where_it_is_known() -> None:
    loss = CausalLM().loss(stats([-1.0, -1.0], [1.0, 3.0], entropy_N=torch.tensor([0.5, 1.5])))
    assert float(loss.metrics["entropy"] / loss.count) == pytest.approx(1.25)
    assert "entropy" not in CausalLM().loss(stats([-1.0], [1.0])).metrics


@pytest.mark.parametrize("objective", [Supervised(), SequenceToSequence()])
def test_an_exact_match_is_right_in_every_token(objective: TokenObjective) -> None:
    """Examples 0, 2 and 3 of a batch; only number 2 is right throughout."""
    given = TokenStats(
        logp_N=torch.zeros(6),
        log_z_N=torch.zeros(6),
        weight_N=torch.ones(6),
        correct_N=torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        example_N=torch.tensor([0, 0, 2, 2, 3, 3]),
    )
    counts = {name: [float(value)] for name, value in objective.loss(given).counts.items()}
    assert counts == {"exact": [1.0], "examples": [3.0]}
    assert objective.summary(counts, ()) == {"exact_match": pytest.approx(1 / 3)}
    assert objective.summary({}, ()) == {}


@pytest.mark.parametrize("objective", TOKEN_OBJECTIVES)
def test_weights_can_be_split_in_any_way(objective: type[TokenObjective]) -> None:
    """Sum and count add up: micro-batches and ranks may cut where they like."""
    logp, weight = [-0.3, -1.1, -2.0, -0.7], [1.0, 0.5, 2.0, 1.0]
    whole = objective().loss(stats(logp, weight))
    parts = [objective().loss(stats(logp[a:b], weight[a:b])) for a, b in ((0, 1), (1, 4))]
    assert float(sum(part.sum.detach() for part in parts)) == pytest.approx(float(whole.sum.detach()))
    assert float(sum(part.count for part in parts)) == pytest.approx(float(whole.count))
