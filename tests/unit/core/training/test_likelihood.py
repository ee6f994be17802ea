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


def plain(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the targets, log-normaliser, and all log-probabilities, by the book."""
    logits_NV = hidden_ND @ weight_VD.T + (0.0 if bias_V is None else bias_V)
    logp_NV = logits_NV.log_softmax(-1)
    return logp_NV.gather(-1, targets_N[:, None])[:, 0], logits_NV.logsumexp(-1), logp_NV


@pytest.mark.parametrize("has_bias", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formula(way: str, has_bias: bool) -> None:
    hidden_ND, weight_VD, targets_N, weights_N = inputs()
    bias_V = torch.linspace(-2, 2, V).requires_grad_() if has_bias else None
    learned = (hidden_ND, weight_VD) if bias_V is None else (hidden_ND, weight_VD, bias_V)
    stats = token_stats(
        hidden_ND, weight_VD, targets_N, weights_N, dtype=torch.float32, bias_V=bias_V, with_mean=True,
        with_entropy=True,
    )  # fmt: skip
    logp_N, log_z_N, logp_NV = plain(hidden_ND, weight_VD, targets_N, bias_V)
    assert stats.mean_logp_N is not None
    assert stats.entropy_N is not None
    torch.testing.assert_close(stats.logp_N, logp_N)
    torch.testing.assert_close(stats.log_z_N, log_z_N)
    torch.testing.assert_close(stats.mean_logp_N, logp_NV.mean(-1))
    torch.testing.assert_close(stats.entropy_N, torch.distributions.Categorical(logits=logp_NV).entropy())
    assert torch.equal(stats.correct_N, (logp_NV.argmax(-1) == targets_N).float())
    expected = (-logp_N * weights_N + 0.3 * log_z_N**2 - 0.2 * logp_NV.mean(-1)).sum()
    ours = (-stats.logp_N * weights_N + 0.3 * stats.log_z_N**2 - 0.2 * stats.mean_logp_N).sum()
    for got, want in zip(torch.autograd.grad(ours, learned), torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_nothing_is_computed_that_was_not_asked_for() -> None:
    stats = token_stats(*inputs(), dtype=torch.float32)
    assert (stats.mean_logp_N, stats.entropy_N) == (None, None)


def test_few_probabilities_are_kept_for_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output matrix is multiplied with the hidden states once, on the way there."""
    products: list[int] = []
    real = likelihood._logits
    monkeypatch.setattr(likelihood, "_logits", lambda *args: products.append(1) or real(*args))
    for kept, expected in ((N * V, 1), (N * V - 1, 2)):
        monkeypatch.setattr(likelihood, "KEPT_NUMBERS", kept)
        products.clear()
        token_stats(*inputs(), dtype=torch.float32).logp_N.sum().backward()
        assert len(products) == expected


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
