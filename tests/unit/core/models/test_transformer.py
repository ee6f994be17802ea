"""The decoder against `transformers`, and documents of a packed row against each other."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.models.attention import packed_attention
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Decoder
from core.models.weights import save_weights
from tests.unit.core.models.conftest import Make

SHAPES = [
    pytest.param({"tied_embeddings": True}, id="tied"),
    pytest.param({"tied_embeddings": False, "num_kv_heads": 2}, id="untied-grouped"),
    pytest.param({"num_kv_heads": 1, "head_dim": 6, "intermediate_size": 40, "norm_eps": 1e-3}, id="odd-sizes"),
]


def logits(model: Decoder, ids_BT: Tensor, segments_BT: Tensor | None = None, kind: str = "math") -> Tensor:
    segments_BT = torch.ones_like(ids_BT) if segments_BT is None else segments_BT
    positions_BT = torch.stack([positions(row.tolist()) for row in segments_BT])
    hidden_BTD = model(ids_BT, positions_BT, packed_attention(segments_BT, kind=kind))  # type: ignore[arg-type]
    return model.logits(hidden_BTD)


def positions(segments: list[int]) -> Tensor:
    return torch.tensor([at - segments.index(segment) for at, segment in enumerate(segments)])


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_are_those_of_transformers(make: Make, tmp_path: Path, shape: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    ours = make(**shape)
    save_weights(ours, tmp_path)
    write_model_config(tmp_path, ours.config, pad=1, end_of_text=0, stop_ids=[0, 2])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(theirs).__name__ == "LlamaForCausalLM"
    # Without the pad id 1, whose embedding row never gets a gradient in `transformers`.
    ids_BT = torch.randint(2, 61, (3, 17), generator=torch.Generator().manual_seed(0))
    our_logits, their_logits = logits(ours, ids_BT), theirs(ids_BT).logits
    assert our_logits.std() > 0.5  # else equality would say little
    torch.testing.assert_close(our_logits, their_logits, rtol=1e-5, atol=2e-5)
    our_logits.log_softmax(-1)[..., 5].sum().backward()
    their_logits.log_softmax(-1)[..., 5].sum().backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    our_gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-4, msg=name)
    assert theirs.generation_config.eos_token_id == [0, 2]


@pytest.mark.parametrize("kind", ["math", "sdpa"])
def test_documents_of_a_row_do_not_see_each_other(make: Make, kind: str) -> None:
    model = make(num_kv_heads=2)
    first, second = torch.arange(1, 8), torch.arange(20, 31)
    packed_BT = torch.cat((first, second, torch.zeros(3, dtype=torch.long)))[None]
    segments_BT = torch.tensor([[1] * 7 + [2] * 11 + [0] * 3])
    together = logits(model, packed_BT, segments_BT, kind)[0]
    assert together.isfinite().all()  # padding too: a NaN there would reach the gradients
    torch.testing.assert_close(together[:7], logits(model, first[None], kind=kind)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[7:18], logits(model, second[None], kind=kind)[0], rtol=1e-5, atol=1e-5)
    changed_BT = packed_BT.clone()
    changed_BT[0, 2] = 50
    assert torch.equal(logits(model, changed_BT, segments_BT, kind)[0, 7:18], together[7:18])


def test_a_position_sees_nothing_after_it(make: Make) -> None:
    model = make()
    ids_BT = torch.arange(12)[None]
    changed_BT = ids_BT.clone()
    changed_BT[0, 6:] = 40
    assert torch.equal(logits(model, ids_BT)[0, :6], logits(model, changed_BT)[0, :6])


def test_both_kinds_of_attention_agree(make: Make) -> None:
    model = make(num_kv_heads=2)
    ids_BT = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    segments_BT = torch.tensor([[1] * 9 + [2] * 11, [1] * 15 + [0] * 5])
    math_kind, sdpa = logits(model, ids_BT, segments_BT, "math"), logits(model, ids_BT, segments_BT, "sdpa")
    torch.testing.assert_close(math_kind, sdpa, rtol=1e-5, atol=1e-5)


def test_initialisation_depends_on_the_seed_alone_and_shrinks_the_residual_writers() -> None:
    dims = Dimensions(hidden_size=128, num_layers=8, num_heads=4)
    config = ModelConfig.from_dimensions("llama", dims, vocab_size=500)
    one, same, other = Decoder(config), Decoder(config), Decoder(config)
    one.initialise(1)
    torch.rand(5)  # the global generator has no say
    same.initialise(1)
    other.initialise(2)
    for (name, a), b in zip(one.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    layer = one.model.layers[0]
    assert float(layer.mlp.up_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(layer.mlp.down_proj.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)


def test_parameters_are_counted_without_building_them(make: Make) -> None:
    for shape in ({"tied_embeddings": True}, {"tied_embeddings": False, "num_kv_heads": 2, "head_dim": 6}):
        model = make(**shape)
        assert model.config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
