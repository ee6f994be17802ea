"""Masked language modelling: what is hidden, and the loss by hand."""

import math

import numpy as np
import pytest
import torch

from core.loss import MaskedStats, Specials, TokenStats
from core.objectives.masked_lm import MaskedLM

MASK, VOCAB = 90, 100
SPECIALS = Specials(VOCAB, MASK, frozenset(range(90, 100)))


def hide(count: int, *, seed: int = 0, fraction: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of a text of `count` times token 7 in its frame, after hiding."""
    ids = np.array([91, *[7] * count, 92])
    targets, weights = ids.copy(), np.array([0.0, *[1.0] * count, 0.0], np.float32)
    random = np.random.Generator(np.random.Philox(seed))
    MaskedLM(mask_fraction=fraction).corrupt(ids, targets, weights, random, SPECIALS)
    assert (targets[1:-1] == 7).all()
    return ids, weights


def test_of_fifteen_in_a_hundred_eight_tenths_are_masked_and_a_tenth_is_random() -> None:
    ids, weights = hide(20_000)
    hidden = weights > 0
    assert hidden.sum() == 3000
    assert (ids[~hidden] != MASK).all()
    assert ids[0] == 91
    assert ids[-1] == 92
    assert (ids[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    others = ids[hidden][(ids[hidden] != MASK) & (ids[hidden] != 7)]
    assert len(others) / 3000 == pytest.approx(0.1 * 89 / 90, abs=0.02)
    assert set(others) < set(range(90)) - {7}  # never a special token
    assert len(set(others)) > 70
    assert (ids[~hidden][1:-1] == 7).all()


def test_something_is_always_hidden_and_each_time_something_else() -> None:
    assert [int(hide(n)[1].sum()) for n in (1, 2, 10, 20)] == [1, 1, 2, 3]
    assert hide(40, fraction=0.5)[1].sum() == 20
    assert not np.array_equal(hide(40, seed=1)[1], hide(40, seed=2)[1])
    assert np.array_equal(hide(40, seed=1)[0], hide(40, seed=1)[0])


def tokens(logp: list[float]) -> TokenStats:
    ones = torch.ones(len(logp))
    return TokenStats(torch.tensor(logp), ones, ones, ones * torch.tensor([float(x == 0.0) for x in logp]))


def test_the_loss_is_the_mean_over_hidden_tokens() -> None:
    loss = MaskedLM().loss(MaskedStats(tokens([-1.0, -3.0, 0.0])))
    assert (float(loss.sum), float(loss.count)) == (4.0, 3.0)
    assert float(loss.metrics["token_accuracy"]) == 1.0
    assert MaskedLM().summary({}, ()) == {}


def test_the_next_sentence_s_loss_is_added_text_by_text() -> None:
    """Texts with 1 and 3 hidden tokens; the head gives 0.8 to what is right in the first and 0.4 in the second."""
    odds = torch.tensor([[math.log(0.8), math.log(0.2)], [math.log(0.4), math.log(0.6)]])
    given = MaskedStats(tokens([-1.0] * 4), odds, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0]))
    objective = MaskedLM(next_sentence="binary")
    loss = objective.loss(given)
    assert float(loss.sum / loss.count) == pytest.approx(1.0 - (math.log(0.8) + 3 * math.log(0.4)) / 4)
    assert float(loss.metrics["nll"] / loss.count) == pytest.approx(1.0)
    counts = {name: [float(value)] for name, value in loss.counts.items()}
    assert objective.summary(counts, ()) == {"next_sentence_accuracy": 0.5}


def test_texts_of_one_length_give_the_plain_mean_of_the_paper() -> None:
    odds = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    follows = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    given = MaskedStats(tokens([0.0] * 10), odds, follows, torch.full((5,), 2.0))
    loss = MaskedLM(next_sentence="binary").loss(given)
    paper = torch.nn.functional.cross_entropy(odds, 1 - follows.long())
    assert float(loss.sum / loss.count) == pytest.approx(float(paper))
