"""What a user may name, and what is refused at submit."""

import pytest
import torch
from torch import nn

from core.adapters.spec import LoRA
from core.adapters.targets import linear_layers, resolved, shortest_names, targeted, trained_whole
from core.errors import InvalidRequest
from core.models.config import Dimensions, ModelConfig
from core.models.transformer import Transformer
from tests.unit.core.models.tiny import ALL, Case

DIMENSIONS = Dimensions(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, context_length=16)
CONFIG = ModelConfig.from_dimensions("llama", DIMENSIONS, vocab_size=61)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_table_is_what_the_models_have(case: Case) -> None:
    with torch.device("meta"):
        model = Transformer(case.config())
    found = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(("lm_head", "head", "transform"))
    }
    assert linear_layers(model.config) == found
    heads = {name for name, _ in model.named_parameters() if name.startswith(("head.", "transform."))}
    assert set(trained_whole(model.config)) == heads


def test_dora_takes_joined_matrices_together() -> None:
    config = Case("gpt2").config()
    resolved(LoRA(rank=4, targets=["q_proj"]), config)
    resolved(LoRA(rank=4, decomposed=True, targets=["q_proj", "k_proj", "v_proj", "up_proj"]), config)
    with pytest.raises(InvalidRequest, match="q_proj, k_proj, v_proj together") as refused:
        resolved(LoRA(rank=4, decomposed=True, targets=["q_proj"]), config)
    assert refused.value.param == "adapter.targets"


def test_all_linear_layers_by_default() -> None:
    spec = resolved(LoRA(), CONFIG)
    assert spec.targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert targeted(spec, CONFIG) == list(linear_layers(CONFIG))


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["q_proj", "v_proj"], 4),
        (["self_attn.q_proj"], 2),
        (["model.layers.1.mlp.up_proj"], 1),
        (["q_proj", "q_proj"], 2),
    ],
)
def test_targets_by_name_or_last_parts(targets: list[str], count: int) -> None:
    assert len(targeted(resolved(LoRA(targets=targets), CONFIG), CONFIG)) == count


@pytest.mark.parametrize("target", ["query", "proj", "lm_head", "embed_tokens", "model.layers.2.mlp.up_proj"])
def test_an_unknown_target_is_refused_with_those_that_exist(target: str) -> None:
    with pytest.raises(InvalidRequest, match="q_proj, k_proj") as refused:
        resolved(LoRA(targets=[target]), CONFIG)
    assert (refused.value.code, refused.value.param) == ("unknown_target", "adapter.targets")


def test_a_rank_that_no_matrix_can_have_is_refused() -> None:
    resolved(LoRA(rank=16), CONFIG)
    with pytest.raises(InvalidRequest, match=r"k_proj \(32 x 16\)") as refused:
        resolved(LoRA(rank=17), CONFIG)
    assert (refused.value.code, refused.value.param) == ("rank_too_high", "adapter.rank")


def test_names_are_as_short_as_they_can_be() -> None:
    everything = ["a.0.q", "a.1.q", "a.0.out.d", "a.1.out.d", "pool.d"]
    assert shortest_names(["a.0.q", "a.1.q"], everything) == ["q"]
    assert shortest_names(["a.0.out.d", "a.1.out.d"], everything) == ["out.d"]
    assert shortest_names(["a.1.q"], everything) == ["1.q"]
