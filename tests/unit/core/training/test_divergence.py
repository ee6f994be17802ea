"""Divergence from a teacher, in chunks, against values by hand and the plain formula."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.training import divergence
from core.training.divergence import Output, token_divergence

N, D, C, V = 23, 8, 5, 37


def of_logits(logits: list[float]) -> Output:
    """One position with these logits."""
    return Output(torch.ones(1, 1, requires_grad=True), torch.tensor(logits)[:, None].requires_grad_())


def between(model: list[float], teacher: list[float], **settings: Any) -> float:
    given = {"temperature": 1.0, "divergence": "forward", "dtype": torch.float32} | settings
    found = token_divergence(of_logits(model), of_logits(teacher), torch.zeros(1).long(), torch.ones(1), **given)
    return float(found.divergence_N.detach())


def test_by_hand() -> None:
    """p = (0.5, 0.5), q = (0.8, 0.2)."""
    p, q = [0.0, 0.0], [math.log(4), 0.0]
    assert between(p, q) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)
    assert between(p, q, divergence="reverse") == pytest.approx(0.5 * math.log(0.625) + 0.5 * math.log(2.5), abs=1e-6)
    assert between(q, q) == pytest.approx(0.0, abs=1e-7)
    # At temperature 2 the logits ln 4 and 0 give 2/3 and 1/3.
    softer = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert between(p, q, temperature=2.0) == pytest.approx(softer, abs=1e-6)


def inputs() -> tuple[Output, Output, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    model = Output(drawn(N, D).requires_grad_(), drawn(V, D).requires_grad_())
    targets_N = torch.randint(0, V, (N,), generator=generator)
    return model, Output(drawn(N, C), drawn(V, C)), targets_N, torch.rand(N, generator=generator) + 0.1


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five positions, the last one short."""
    monkeypatch.setattr(divergence, "CHUNK_NUMBERS", 5 * V)


@pytest.mark.parametrize("which", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_values_and_gradients_are_those_of_the_plain_formula(which: Any, temperature: float) -> None:
    model, teacher, targets_N, weights_N = inputs()
    found = token_divergence(
        model, teacher, targets_N, weights_N, temperature=temperature, divergence=which, dtype=torch.float32
    )
    logits_NV = model.hidden_ND @ model.weight_VD.T
    logp_N = logits_NV.log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]
    p_NV = (logits_NV / temperature).log_softmax(-1)
    q_NV = (teacher.hidden_ND @ teacher.weight_VD.T / temperature).log_softmax(-1)
    first_NV, second_NV = (q_NV, p_NV) if which == "forward" else (p_NV, q_NV)
    divergence_N = (first_NV.exp() * (first_NV - second_NV)).sum(-1)
    torch.testing.assert_close(found.divergence_N, divergence_N)
    torch.testing.assert_close(found.tokens.logp_N, logp_N)
    torch.testing.assert_close(found.tokens.log_z_N, logits_NV.logsumexp(-1))
    assert torch.equal(found.tokens.correct_N, (logits_NV.argmax(-1) == targets_N).float())
    plain = ((divergence_N * 2 - logp_N) * weights_N + 0.3 * logits_NV.logsumexp(-1) ** 2).sum()
    tokens = found.tokens
    ours = ((found.divergence_N * 2 - tokens.logp_N) * weights_N + 0.3 * tokens.log_z_N**2).sum()
    into = (model.hidden_ND, model.weight_VD)
    for got, expected in zip(torch.autograd.grad(ours, into), torch.autograd.grad(plain, into), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_in_bf16_only_the_products_are_rounded() -> None:
    model, teacher, targets_N, weights_N = inputs()
    settings: dict[str, Any] = {"temperature": 1.0, "divergence": "forward"}
    exact, rounded = (
        token_divergence(model, teacher, targets_N, weights_N, dtype=dtype, **settings)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.divergence_N.dtype == torch.float32
    torch.testing.assert_close(rounded.divergence_N, exact.divergence_N, rtol=0.05, atol=0.1)
    into = (model.hidden_ND, model.weight_VD)
    pairs = zip(*(torch.autograd.grad(found.divergence_N.sum(), into) for found in (rounded, exact)), strict=True)
    for got, want in pairs:
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.03
