"""Directories in and out: what `transformers` wrote loads, and what is broken or unknown is refused by name."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.directory import read_model_config, write_model_config
from core.models.families.llama import PRESETS
from core.models.weights import load_model, save_weights
from tests.unit.core.models.conftest import Make
from tests.unit.core.models.test_transformer import logits

IDS_BT = torch.arange(20)[None]


@pytest.fixture
def directory(make: Make, tmp_path: Path) -> Path:
    save_weights(make(), tmp_path)
    write_model_config(tmp_path, make().config, pad=1, end_of_text=0, stop_ids=[0])
    return tmp_path


def edit(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["100MB", "20KB"])
def test_what_transformers_wrote_gives_its_logits(tmp_path: Path, tied: bool, shard: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    ours = load_model(tmp_path).eval()
    torch.testing.assert_close(logits(ours, IDS_BT), theirs(IDS_BT).logits, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_changes_no_bit(make: Make, tmp_path: Path, tied: bool) -> None:
    model = make(tied_embeddings=tied)
    save_weights(model, tmp_path)
    write_model_config(tmp_path, model.config, pad=1, end_of_text=0, stop_ids=[0])
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    again = load_model(tmp_path, dropout=0.5)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert all(parameter.data_ptr() % 64 == 0 for parameter in again.parameters())


def test_weights_come_in_the_dtype_that_is_asked_for(directory: Path) -> None:
    assert {p.dtype for p in load_model(directory, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(directory: Path, values: dict[str, Any], named: str) -> None:
    edit(directory, **values)
    with pytest.raises(InvalidData, match=named) as refused:
        read_model_config(directory)
    assert refused.value.code == "unsupported_model"


def test_keys_that_change_nothing_are_ignored(directory: Path) -> None:
    before = read_model_config(directory)
    edit(directory, transformers_version="99", use_cache=False, pretraining_tp=1)
    assert read_model_config(directory) == before


def test_both_spellings_of_the_rotary_base_are_read(directory: Path) -> None:
    edit(directory, rope_parameters=None, rope_theta=12345.0)
    assert read_model_config(directory).rope_theta == 12345.0
    edit(directory, rope_parameters={"rope_type": "default", "rope_theta": 777.0}, rope_theta=None)
    assert read_model_config(directory).rope_theta == 777.0


def broken(directory: Path, how: str) -> None:
    weights = directory / "model.safetensors"
    content = weights.read_bytes()
    match how:
        case "truncated":
            weights.write_bytes(content[: len(content) // 2])
        case "absurd header":
            weights.write_bytes(struct.pack("<Q", 1 << 60) + content[8:])
        case "empty":
            weights.write_bytes(b"")
        case "gone":
            weights.unlink()
        case "other shape":
            edit(directory, intermediate_size=8)
        case "tensor missing":
            edit(directory, num_hidden_layers=3)
        case "index leads outside":
            weights.rename(directory.parent / "outside.safetensors")
            index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "how",
    ["truncated", "absurd header", "empty", "gone", "other shape", "tensor missing", "index leads outside"],
)
def test_broken_weights_are_refused(directory: Path, how: str) -> None:
    broken(directory, how)
    with pytest.raises(InvalidData) as refused:
        load_model(directory)
    assert refused.value.code == "corrupt_model"


def test_presets_grow_from_one_million_to_one_billion() -> None:
    sizes = [ModelConfig.from_dimensions("llama", dims, vocab_size=8192).num_parameters() for dims in PRESETS.values()]
    assert list(PRESETS) == ["nano", "micro", "mini", "small", "medium", "large", "xl"]
    assert sizes == sorted(sizes)
    assert 0.8e6 < sizes[0] < 2e6
    assert 0.8e9 < sizes[-1] < 1.3e9
