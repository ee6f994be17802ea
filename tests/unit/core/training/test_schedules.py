"""Schedules at the places where their formula can be read off."""

import pytest

from core.schedules import Cosine, WarmupStableDecay


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.55), (1.0, 0.1), (1.5, 0.1)]
)
def test_cosine(progress: float, factor: float) -> None:
    assert Cosine(warmup_fraction=0.1, final_fraction=0.1).factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.9, 0.6), (1.0, 0.2), (1.5, 0.2)],
)
def test_warmup_stable_decay(progress: float, factor: float) -> None:
    schedule = WarmupStableDecay(warmup_fraction=0.1, decay_fraction=0.2, final_fraction=0.2)
    assert schedule.factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize("schedule", [Cosine(warmup_fraction=0.0), WarmupStableDecay(warmup_fraction=0.0)])
def test_without_warm_up_the_first_step_has_the_full_rate(schedule: Cosine | WarmupStableDecay) -> None:
    assert schedule.factor(0.0) == 1.0


def test_without_decay_the_rate_stays() -> None:
    assert WarmupStableDecay(decay_fraction=0.0).factor(1.0) == 1.0
