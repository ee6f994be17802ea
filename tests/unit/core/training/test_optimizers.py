"""Each optimizer's first step, worked out by hand; its state in bytes; learning rates by layer.

Legend: A x B matrices.
"""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer
from core.optimizers import SGD, Adafactor, AdamW, Muon, Optimizer, default_learning_rate
from core.training import optimizers
from core.training.blockwise_adamw import decode, dither, encode
from core.training.optimizers import layer_fractions

RATE = 0.01


class Tiny(nn.Module):
    """A block's matrix, an embedding, a norm."""

    def __init__(self, rows: int = 3, columns: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up_proj = nn.Linear(columns, rows, bias=False)
        self.embed = nn.Embedding(rows, columns)
        self.norm = nn.Parameter(torch.ones(columns))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)


def step(spec: Any, model: nn.Module, gradients: dict[str, Tensor], *, times: int = 1) -> dict[str, Tensor]:
    """How the parameters have moved."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = optimizers.build(spec, model)
    for _ in range(times):
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone()
        optimizers.set_learning_rate(optimizer, RATE)
        optimizer.step()
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


def gradients_of(model: nn.Module, *, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("spec", [AdamW(weight_decay=0.5), AdamW(weight_decay=0.5, state="int8")])
def test_adamw_moves_by_the_sign_at_first_and_matrices_decay(spec: AdamW) -> None:
    """Both moments are unbiased, so m / sqrt(v) = g / |g|."""
    model = Tiny(80, 64)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients = gradients_of(model)
    for name, moved in step(spec, model, gradients).items():
        decay = RATE * 0.5 * before[name] if moved.dim() > 1 else 0.0
        torch.testing.assert_close(moved, -RATE * gradients[name].sign() - decay, rtol=1e-3, atol=1e-6)


def test_muon_makes_matrices_of_blocks_orthogonal_and_leaves_the_rest_to_adamw() -> None:
    """Of a matrix of rank one, the only singular value is 1 after scaling; five times the polynomial is applied to it.
    The result is scaled by 0.2 sqrt(max(A, B)); torch computes it in bf16."""
    model = Tiny()
    u, v = torch.tensor([2.0, -1.0, 2.0]) / 3, torch.tensor([0.5, 0.5, -0.5, 0.5, 0.0])
    gradients = gradients_of(model) | {"up_proj.weight": 7.0 * torch.outer(u, v)}
    moved = step(Muon(weight_decay=0.0), model, gradients)
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    expected = -RATE * 0.2 * math.sqrt(5) * value * torch.outer(u, v)
    torch.testing.assert_close(moved["up_proj.weight"], expected, rtol=0.03, atol=1e-6)
    for name in ("embed.weight", "norm"):
        torch.testing.assert_close(moved[name], -RATE * gradients[name].sign(), rtol=1e-3, atol=1e-6)


def test_adafactor_moves_by_a_part_of_the_weights_size() -> None:
    """Squares that are an outer product are kept without loss, so the update is the sign, as long as their mean is."""
    model = Tiny()
    sizes = torch.outer(torch.tensor([1.0, 4.0, 0.5]), torch.tensor([3.0, 1e-4, 1.0, 2.0, 1.0]))
    signs = gradients_of(model)["up_proj.weight"].sign()
    gradients = gradients_of(model) | {"up_proj.weight": sizes * signs}
    size = float(model.up_proj.weight.detach().square().mean().sqrt())
    moved = step(Adafactor(), model, gradients)
    torch.testing.assert_close(moved["up_proj.weight"], -RATE * size * signs, rtol=1e-4, atol=1e-7)


def test_adafactor_leaves_alone_what_has_no_gradient() -> None:
    model = Tiny()
    gradients = gradients_of(model)
    gradients["embed.weight"][1] = 0.0
    moved = step(Adafactor(), model, gradients)["embed.weight"]
    assert torch.equal(moved[1], torch.zeros(5))
    assert bool((moved[0] != 0).all())


def test_sgd_looks_ahead() -> None:
    """Nesterov: g + 0.9 (0.9 * 0 + g)."""
    model = Tiny()
    gradients = gradients_of(model)
    for name, moved in step(SGD(momentum=0.9), model, gradients).items():
        torch.testing.assert_close(moved, -RATE * 1.9 * gradients[name], rtol=1e-4, atol=1e-6)
    for name, moved in step(SGD(momentum=0.0), model, gradients).items():
        torch.testing.assert_close(moved, -RATE * gradients[name], rtol=1e-4, atol=1e-6)


def test_codes_are_near_and_right_on_average() -> None:
    """Within a code's distance of the fourth root, and without bias over the steps."""
    values_bn = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-8], [1], [3], [0]])
    means_bn = torch.zeros_like(values_bn)
    for at in range(1, 1001):
        codes_bn, scale_b = encode(values_bn, dither(at, device=torch.device("cpu")), most=127)
        means_bn += codes_bn.float() / 1000
    exact_bn = 127 * values_bn.sign() * (values_bn.abs() / scale_b.clamp(min=1e-38)[:, None]) ** 0.25
    assert float((codes_bn - exact_bn).abs().max()) < 1
    assert float((means_bn - exact_bn).abs().max()) < 0.01
    torch.testing.assert_close(
        decode(codes_bn, scale_b), (codes_bn.float() / 127) ** 4 * values_bn.sign() * scale_b[:, None]
    )


def test_second_moments_never_become_zero_beside_larger_ones() -> None:
    """m / sqrt(v) would have no bound."""
    values_bn = torch.full((1, 256), 1e-12)
    values_bn[0, 7] = 1.0
    codes_bn, _ = encode(values_bn, torch.zeros(256), most=255)
    assert int(codes_bn.min()) == 1
    assert int(codes_bn.max()) == 255


def test_bytes_follow_fp32_closely() -> None:
    """Fifty steps with gradients whose sizes differ by a hundred in each block: the paths differ by a fiftieth."""

    def walk(spec: AdamW) -> Tensor:
        model = nn.Linear(96, 64, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = optimizers.build(spec, model)
        generator = torch.Generator().manual_seed(3)
        sizes = torch.logspace(-2, 0, 96)
        for _ in range(50):
            model.weight.grad = (torch.randn(64, 96, generator=generator) + 0.3) * sizes
            optimizers.set_learning_rate(optimizer, RATE)
            optimizer.step()
        return model.weight.detach()

    exact = walk(AdamW(weight_decay=0.0))
    assert float((walk(AdamW(weight_decay=0.0, state="int8")) - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize(
    "spec", [AdamW(), AdamW(state="int8"), Muon(), Adafactor(), SGD(), SGD(momentum=0.0), Muon(layer_decay=0.5)]
)
def test_the_bytes_that_the_plan_counts_are_those_that_are_kept(spec: Optimizer) -> None:
    dims = Dimensions(hidden_size=64, num_layers=2, num_heads=2, context_length=16)
    model = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=100))
    model.initialise(0)
    optimizer = optimizers.build(spec, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )
    assert held == spec.state_bytes({name: tuple(p.shape) for name, p in model.named_parameters()})
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))


def test_what_is_frozen_is_left_alone() -> None:
    model = Tiny()
    model.embed.requires_grad_(False)
    for spec in (AdamW(), AdamW(state="int8"), Muon(), Adafactor(), SGD()):
        assert "embed.weight" not in [
            name
            for name, parameter in model.named_parameters()
            for group in optimizers.build(spec, model).param_groups
            if any(parameter is grouped for grouped in group["params"])
        ]


def test_lower_layers_learn_more_slowly() -> None:
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    names += [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    fractions = layer_fractions(names, 0.5)
    assert fractions["lm_head.weight"] == fractions["model.norm.weight"] == 1.0
    assert [fractions[f"model.layers.{i}.mlp.up_proj.weight"] for i in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert fractions["model.embed_tokens.weight"] == 0.0625
    assert set(layer_fractions(names, 1.0).values()) == {1.0}


def test_each_tower_counts_from_its_own_top() -> None:
    names = [f"encoder.layers.{i}.a" for i in range(4)] + [f"model.layers.{i}.a" for i in range(2)]
    assert layer_fractions(names, 0.5)["encoder.layers.3.a"] == layer_fractions(names, 0.5)["model.layers.1.a"] == 0.5


def test_the_rate_of_a_group_is_its_fraction() -> None:
    dims = Dimensions(hidden_size=16, num_layers=2, num_heads=2, context_length=16)
    model = Transformer(ModelConfig.from_dimensions("llama", dims, vocab_size=100))
    optimizer = optimizers.build(AdamW(layer_decay=0.1), model)
    optimizers.set_learning_rate(optimizer, 1.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[model.model.layers[0].self_attn.q_proj.weight] == pytest.approx(0.01)  # type: ignore[union-attr]
    assert rates[model.model.embed_tokens.weight] == pytest.approx(0.001)


@pytest.mark.parametrize(("kind", "times"), [("adamw", 1.0), ("muon", 1.0), ("adafactor", 10.0), ("sgd", 30.0)])
def test_default_learning_rates(kind: str, times: float) -> None:
    spec = TypeAdapter[Optimizer](Optimizer).validate_python({"kind": kind})
    usual = default_learning_rate(10**6, pretrained=False, optimizer=type(spec))
    assert usual == pytest.approx(3e-3 * times)
    assert default_learning_rate(10**9, pretrained=False, optimizer=type(spec)) == pytest.approx(usual / 10)
    assert default_learning_rate(10**9, pretrained=True, optimizer=type(spec)) == pytest.approx(usual / 100)
