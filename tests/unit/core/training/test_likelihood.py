"""The chunked likelihood against the plain formula."""

import pytest
import torch
from torch import Tensor

from core.training import likelihood
from core.training.likelihood import token_stats

N, D, V = 23, 8, 37


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator).requires_grad_()
    weight_VD = torch.randn(V, D, generator=generator).requires_grad_()
    targets_N = torch.randint(0, V, (N,), generator=generator)
    return hidden_ND, weight_VD, targets_N, torch.rand(N, generator=generator) + 0.1


@pytest.fixture(params=["kept", "computed again"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Chunks of five positions, the last one short."""
    monkeypatch.setattr(likelihood, "CHUNK_NUMBERS", 5 * V)
    monkeypatch.setattr(likelihood, "KEPT_NUMBERS", N * V if request.param == "kept" else N * V - 1)
    return str(request.param)


def test_values_and_gradients_are_those_of_the_plain_formula(way: str) -> None:
    hidden_ND, weight_VD, targets_N, weights_N = inputs()
    stats = token_stats(hidden_ND, weight_VD, targets_N, weights_N, dtype=torch.float32)
    logits_NV = hidden_ND @ weight_VD.T
    logp_N = logits_NV.log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]
    log_z_N = logits_NV.logsumexp(-1)
    torch.testing.assert_close(stats.logp_N, logp_N)
    torch.testing.assert_close(stats.log_z_N, log_z_N)
    assert torch.equal(stats.correct_N, (logits_NV.argmax(-1) == targets_N).float())
    plain = torch.autograd.grad((-logp_N * weights_N + 0.3 * log_z_N**2).sum(), (hidden_ND, weight_VD))
    ours = (-stats.logp_N * weights_N + 0.3 * stats.log_z_N**2).sum()
    for got, expected in zip(torch.autograd.grad(ours, (hidden_ND, weight_VD)), plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_in_bf16_only_the_products_are_rounded(way: str) -> None:
    hidden_ND, weight_VD, targets_N, weights_N = inputs()
    exact = token_stats(hidden_ND, weight_VD, targets_N, weights_N, dtype=torch.float32)
    rounded = token_stats(hidden_ND, weight_VD, targets_N, weights_N, dtype=torch.bfloat16)
    assert rounded.logp_N.dtype == torch.float32
    torch.testing.assert_close(rounded.logp_N, exact.logp_N, rtol=0.02, atol=0.1)
    expected = torch.autograd.grad(-exact.logp_N.sum(), (hidden_ND, weight_VD))
    for got, want in zip(torch.autograd.grad(-rounded.logp_N.sum(), (hidden_ND, weight_VD)), expected, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.02


def test_a_confident_model_still_has_a_gradient_in_bf16(way: str) -> None:
    """1 - p at p = 0.9995 is lost when p is rounded to bf16 first."""
    hidden_ND, targets_N = torch.ones(1, 1, requires_grad=True), torch.zeros(1, dtype=torch.long)
    weight_VD = torch.tensor([[7.625], [0.0]], requires_grad=True)
    stats = token_stats(hidden_ND, weight_VD, targets_N, torch.ones(1), dtype=torch.bfloat16)
    (-stats.logp_N).sum().backward()
    assert weight_VD.grad is not None
    assert float(weight_VD.grad[0]) == pytest.approx(float(stats.logp_N.detach().exp()) - 1, rel=0.01)


@pytest.mark.parametrize("way", ["computed again"], indirect=True)
def test_all_logits_are_never_stored(way: str) -> None:
    """Neither for the way back, nor, in any dtype, during it."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_stats(*inputs(), dtype=torch.float32)
    assert max(sizes) <= max(N * D, V * D)


def test_without_a_gradient_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    real = Tensor.new_empty
    monkeypatch.setattr(
        Tensor, "new_empty", lambda self, *size, **kind: asked.append(size) or real(self, *size, **kind)
    )
    with torch.no_grad():
        token_stats(*inputs(), dtype=torch.float32)
    assert asked
    assert (N, V) not in [size[0] for size in asked]
