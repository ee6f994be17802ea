"""Squared errors by hand; correlation as scipy has it, summed up over uneven parts."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from core.loss import LabelStats
from core.objectives.regression import Regression
from core.training.sums import Sums


def stats(said: object, true: object) -> LabelStats:
    return LabelStats(
        torch.tensor(said, dtype=torch.float32)[:, None], torch.tensor(true, dtype=torch.float32)[:, None]
    )


def test_by_hand() -> None:
    loss = Regression().loss(stats([1.0, -0.5], [0.0, 1.5]))
    assert (float(loss.sum), float(loss.count)) == (5.0, 2.0)
    assert float(loss.metrics["mean_squared_error"]) == 5.0
    assert float(loss.metrics["mean_absolute_error"]) == 3.0


def test_correlation_is_pearsons_even_far_from_zero() -> None:
    random = np.random.default_rng(1)
    true = (random.normal(size=500) + 3000).astype(np.float32)
    said = (0.5 * true + random.normal(size=500)).astype(np.float32)
    sums = Sums()
    for part in (slice(0, 33), slice(33, 400), slice(400, 500)):
        sums.add(Regression().loss(stats(said[part], true[part])))
    found = Regression().summary(sums.summed_counts, ())
    assert found["pearson"] == pytest.approx(pearsonr(said.astype(float), true.astype(float)).statistic, abs=1e-6)


def test_no_correlation_with_what_does_not_vary() -> None:
    sums = Sums()
    sums.add(Regression().loss(stats([2.0, 2.0, 2.0], [0.0, 1.0, 2.0])))
    assert Regression().summary(sums.summed_counts, ()) == {"pearson": 0.0}
