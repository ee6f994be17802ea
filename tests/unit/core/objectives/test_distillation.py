"""Distillation by hand; the divergences themselves are worked out in tests/unit/core/training/test_divergence.py."""

import math

import pytest
import torch

from core.loss import TeacherStats, TokenStats
from core.objectives.distillation import Distillation


def test_a_mix_of_what_the_teacher_says_and_what_the_text_says() -> None:
    tokens = TokenStats(
        logp_N=torch.tensor([-1.0, -2.0]),
        log_z_N=torch.zeros(2),
        weight_N=torch.tensor([1.0, 0.5]),
        correct_N=torch.tensor([1.0, 0.0]),
    )
    objective = Distillation(teacher="big", alpha=0.25, temperature=2.0)
    loss = objective.loss(TeacherStats(tokens, torch.tensor([0.3, 0.2])))
    assert float(loss.sum) == pytest.approx(0.25 * 4 * (0.3 + 0.5 * 0.2) + 0.75 * (1.0 + 0.5 * 2.0))
    assert float(loss.count) == 1.5
    assert float(loss.metrics["nll"]) == pytest.approx(2.0)
    assert float(loss.metrics["divergence"]) == pytest.approx(0.4)
    assert math.isclose(float(loss.metrics["token_accuracy"]), 1.0)
