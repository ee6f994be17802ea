"""The layer against the written-out formula, its gradients against those of autograd, and what it keeps in memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.adapters.attach import attach
from core.adapters.low_rank import LowRankLinear
from core.adapters.spec import LoRA
from tests.unit.core.adapters.conftest import KINDS, MakeLinear


def written_out(layer: LowRankLinear, x: Tensor, read: Tensor | None = None) -> Tensor:
    """The formula, with the whole matrix and plain autograd."""
    low = layer.factor * (layer.lora_B @ layer.lora_A)
    weight = layer.frozen.dense(x.dtype)
    y = x @ weight.T + (x if read is None else read) @ low.T
    if layer.lora_magnitude_vector is not None:
        y = y * (layer.lora_magnitude_vector / (weight + low).norm(dim=1).detach())
    return y if layer.bias is None else y + layer.bias


def test_one_by_hand() -> None:
    """W = [[1, 2], [3, 4]], A = [[1, -1]], B = [[1], [2]], alpha 6, rank 1: W' = W + 6 [[1, -1], [2, -2]]."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    adapter = attach(model, LoRA(rank=1, alpha=6), linears=["0"], chosen=["0"], seed=0, dtype=torch.float32)
    adapter.load({"0.lora_A": torch.tensor([[1.0, -1.0]]), "0.lora_B": torch.tensor([[1.0], [2.0]])})
    assert adapter.layers["0"].merged().tolist() == [[7.0, -4.0], [15.0, -8.0]]
    assert model(torch.tensor([[1.0, 1.0]])).tolist() == [[3.0, 7.0]]


def test_rows_of_dora_have_the_trained_length() -> None:
    """Rows [3, 4] of length 5 and [0, 2] of length 2, given lengths 10 and 1."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    spec = LoRA(rank=1, decomposed=True)
    adapter = attach(model, spec, linears=["0"], chosen=["0"], seed=0, dtype=torch.float32)
    magnitude = adapter.layers["0"].lora_magnitude_vector
    assert magnitude is not None
    assert magnitude.tolist() == [5.0, 2.0]
    magnitude.data = torch.tensor([10.0, 1.0])
    torch.testing.assert_close(adapter.layers["0"].merged(), torch.tensor([[6.0, 8.0], [0.0, 1.0]]))


def test_the_factor_of_both_scalings() -> None:
    assert LoRA(rank=64, alpha=16).factor == 0.25
    assert LoRA(rank=64, alpha=16, scaling="rank_stabilized").factor == 2.0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_formula(linear: MakeLinear, kind: dict[str, Any], bias: bool) -> None:
    model, adapter = linear(bias=bias, **kind)
    layer = adapter.layers["0"]
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, 6, dtype=torch.float64)
    trained = [x, *adapter.tensors().values()]
    ours, theirs = model(x), written_out(layer, x)
    torch.testing.assert_close(ours, theirs)
    for name, a, b in zip(
        ["x", *adapter.tensors()],
        torch.autograd.grad((ours * weights).sum(), trained),
        torch.autograd.grad((theirs * weights).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_of_what_the_adapter_reads(linear: MakeLinear, kind: dict[str, Any]) -> None:
    model, adapter = linear(dropout=0.4, bias=True, **kind)
    x = torch.randn(50, 10, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(model.eval()(x), written_out(adapter.layers["0"], x))
    torch.manual_seed(7)
    ours = model.train()(x)
    torch.manual_seed(7)
    theirs = written_out(adapter.layers["0"], x, functional.dropout(x, 0.4))
    torch.testing.assert_close(ours, theirs)
    trained = [x, *adapter.tensors().values()]
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), trained),
        torch.autograd.grad(theirs.square().sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # DoRA's lengths are fp32


def test_a_fresh_adapter_changes_no_bit() -> None:
    torch.manual_seed(0)
    for spec in (LoRA(rank=4), LoRA(rank=4, decomposed=True)):
        model = nn.Sequential(nn.Linear(32, 16, bias=False))
        x = torch.randn(7, 32)
        before = model(x)
        attach(model, spec, linears=["0"], chosen=["0"], seed=0, dtype=torch.float32)
        if spec.decomposed:  # |W| / |W|, each rounded
            torch.testing.assert_close(model(x), before)
        else:
            assert torch.equal(model(x), before)


def test_nothing_of_the_base_is_trained_or_kept() -> None:
    """What waits for the way back: the input once, and numbers of the rank's size. No gradient reaches the base."""
    features, rank, tokens = 512, 8, 16
    model = nn.Sequential(nn.Linear(features, features))
    attach(model, LoRA(rank=rank), linears=["0"], chosen=["0"], seed=0, dtype=torch.float32)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(torch.randn(tokens, features))
    y.sum().backward()
    assert sum(kept) == tokens * features + tokens * rank + 2 * rank * features
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "0.lora_A",
        "0.lora_B",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_bf16_gives_the_bits_of_one_in_fp32(kind: dict[str, Any]) -> None:
    """In a bf16 run every product rounds the matrix to bf16 anyway."""
    results = []
    for kept in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 32))
        adapter = attach(model, LoRA(rank=4, **kind), linears=["0", "2"], chosen=["0", "2"], seed=1, dtype=kept)
        x = torch.randn(40, 64)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().sum()
        loss.backward()
        results.append([loss.detach(), *(tensor.grad for tensor in adapter.tensors().values())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_the_first_weights_come_from_the_seed_alone() -> None:
    def first(seed: int) -> list[Tensor]:
        torch.rand(seed + 1)  # the global generator has no say
        model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
        adapter = attach(model, LoRA(rank=2), linears=["0", "1"], chosen=["0", "1"], seed=seed, dtype=torch.float32)
        assert adapter.layers["0"].lora_A.abs().max() <= 16**-0.5
        assert not adapter.layers["0"].lora_B.any()
        return [tensor.detach() for tensor in adapter.tensors().values()]

    assert all(torch.equal(a, b) for a, b in zip(first(1), first(1), strict=True))
    assert not torch.equal(first(1)[0], first(2)[0])
