"""Schedules at the places where their formula can be read off."""

import pytest

from core.schedules import Constant, Cosine, InverseSqrt, Linear, Schedule, WarmupStableDecay


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


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.6), (1.0, 0.2), (1.5, 0.2)]
)
def test_linear(progress: float, factor: float) -> None:
    assert Linear(warmup_fraction=0.1, final_fraction=0.2).factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_constant(progress: float, factor: float) -> None:
    assert Constant(warmup_fraction=0.1).factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize("step", [1, 2000, 4000, 16_000, 100_000])
def test_inverse_square_root_is_the_transformer_s_over_its_peak(step: int) -> None:
    warmup, steps = 4000, 100_000
    rate = min(step**-0.5, step * warmup**-1.5)
    assert InverseSqrt(warmup_fraction=warmup / steps).factor(step / steps) == pytest.approx(rate / warmup**-0.5)


@pytest.mark.parametrize(
    "schedule", [kind(warmup_fraction=0.0) for kind in (Cosine, WarmupStableDecay, Linear, Constant)]
)
def test_without_warm_up_the_first_step_has_the_full_rate(schedule: Schedule) -> None:
    assert schedule.factor(0.0) == 1.0


def test_without_decay_the_rate_stays() -> None:
    assert WarmupStableDecay(decay_fraction=0.0).factor(1.0) == 1.0
