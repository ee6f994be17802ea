"""How the next token is chosen."""

from collections import Counter

import pytest
import torch

from core.generation.sampling import Sampler, top_logprobs
from core.sampling_params import SamplingParams

LOGITS = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04]).log()


def drawn(num: int = 4000, *, logits: torch.Tensor = LOGITS, **params: object) -> Counter[int]:
    counts: Counter[int] = Counter()
    sampler = Sampler(SamplingParams.model_validate({"seed": 5, **params}))
    for _ in range(num):
        sampler.counts.clear()
        counts[sampler.choose(logits, int(logits.argmax()))] += 1
    return counts


def shares(counts: Counter[int]) -> list[float]:
    return [counts[id] / counts.total() for id in range(len(LOGITS))]


def test_draws_have_the_distribution() -> None:
    assert shares(drawn()) == pytest.approx(LOGITS.exp().tolist(), abs=0.03)


def test_temperature_sharpens() -> None:
    expected = (LOGITS / 0.5).softmax(-1).tolist()
    assert shares(drawn(temperature=0.5)) == pytest.approx(expected, abs=0.03)
    assert set(drawn(50, temperature=0)) == set(drawn(50, temperature=1e-12)) == {0}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 1e-9}, {0}),
        ({"top_k": 2, "top_p": 0.62}, {0}),  # 0.5 of the 0.8 that top_k leaves is 0.625
        ({"top_k": 2, "top_p": 0.63}, {0, 1}),
    ],
)
def test_candidates(params: dict[str, object], kept: set[int]) -> None:
    counts = drawn(1000, **params)
    assert set(counts) == kept
    total = sum(LOGITS[id].exp().item() for id in kept)
    expected = [LOGITS[id].exp().item() / total if id in kept else 0.0 for id in range(5)]
    assert shares(counts) == pytest.approx(expected, abs=0.05)


def test_top_p_over_a_vocabulary_larger_than_the_first_sort() -> None:
    flat = torch.zeros(5000)
    assert len(drawn(3000, logits=flat, top_p=0.5)) > 1025
    assert max(drawn(1000, logits=torch.arange(0, -5000, -1.0), top_p=0.99)) < 10


def test_bias_bans_and_forces() -> None:
    assert 0 not in drawn(500, logit_bias={0: -100})
    assert set(drawn(500, logit_bias={4: 100})) == {4}
    assert set(drawn(50, temperature=0, logit_bias={4: 100})) == {4}


def test_penalties_count_what_was_generated() -> None:
    def choices(**params: object) -> list[int]:
        sampler = Sampler(SamplingParams.model_validate({"temperature": 0, **params}))
        return [sampler.choose(logits, 0) for _ in range(6)]

    logits = torch.tensor([2.0, 1.5, 0.0])
    assert choices() == [0] * 6
    # after each choice of 0 its logit falls by 1: 2, 1 (1.5 wins), then 1 falls to 0.5, 0 to 0, …
    assert choices(frequency_penalty=1.0) == [0, 1, 0, 1, 0, 2]
    assert choices(presence_penalty=1.0) == [0, 1, 0, 0, 0, 0]  # once for having occurred
    assert choices(presence_penalty=-2.0) == [0] * 6
    assert logits.tolist() == [2.0, 1.5, 0.0]


def test_a_seed_fixes_the_draws() -> None:
    def draws(seed: int | None, copy: int = 0) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), copy=copy)
        return [sampler.choose(torch.zeros(1000), 0) for _ in range(8)]

    assert draws(7) == draws(7)
    assert draws(-7) == draws(-7)
    distinct = [draws(7), draws(8), draws(-7), draws(7, copy=1), draws(2**70), draws(None), draws(None)]
    assert len({tuple(d) for d in distinct}) == len(distinct)


def test_logprobs_are_of_the_model_not_of_the_sampler() -> None:
    [(taken, best)] = top_logprobs(LOGITS[None], torch.tensor([3]), 2)
    assert taken == pytest.approx(LOGITS[3].item())
    assert best == [(0, pytest.approx(LOGITS[0].item())), (1, pytest.approx(LOGITS[1].item()))]
