"""PEFT's directories in and out, for every family: `peft` gives our outputs, and we give those of `peft`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from core.adapters import peft_config
from core.adapters.attach import Attached, attach_to, merge
from core.adapters.merged_files import merged_files
from core.adapters.peft_config import AdapterBase, read_adapter_config
from core.adapters.peft_directory import load_adapter, load_merged, save_adapter
from core.adapters.peft_tensors import PeftTensors
from core.adapters.spec import LoRA
from core.adapters.targets import resolved
from core.errors import InvalidData
from core.models.directory import write_model_config
from core.models.tensor_files import TensorFile
from core.models.transformer import Transformer
from core.models.weights import load_model
from tests.unit.core.adapters.conftest import KINDS, QUANTISED, fill
from tests.unit.core.models.tiny import LABELS, Case, exported, inputs, made, outputs, texts, their_outputs, theirs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
BASE = AdapterBase(model="im:lab:base:1a2b3c4d", manifest_sha256="0" * 64)
LLAMA = Case("llama", {"num_kv_heads": 2})
CASES = [
    LLAMA,
    Case("qwen2"),
    Case("qwen3", {"num_kv_heads": 2, "head_dim": 16, "tied_embeddings": False}),
    Case("gpt2"),
    Case("bert"),
    Case("roberta"),
    Case("transformer", {"num_encoder_layers": 1}),
    Case("t5"),
]
HEADED = [
    Case(family, head=head)
    for family in ("llama", "gpt2", "bert", "roberta")
    for head in ({"head": "classifier", "labels": LABELS}, {"head": "tagger", "labels": LABELS}, {"head": "span"})
]


def base_of(case: Case, folder: Path) -> Path:
    """A language model of the family, without the case's head."""
    folder.mkdir()
    return exported(made(Case(case.family, case.dims).config()), folder)


def adapted(case: Case, base: Path, **spec: Any) -> tuple[Transformer, Attached]:
    """Our model with an adapter beside it that changes its outputs a lot."""
    model = load_model(base, **case.head).eval()
    given = resolved(LoRA(**({"rank": 4, "alpha": 6.0} | spec)), model.config)
    kept = {"quantization": given.quantization, "double_quantization": given.double_quantization}
    adapter = attach_to(model, given, seed=1, dtype=torch.float32, base=BASE.model_copy(update=kept))
    fill(adapter)
    return model, adapter


def write(model: Transformer, adapter: Attached, folder: Path) -> Path:
    """As a checkpoint has it, without the tokenizer."""
    folder.mkdir()
    save_adapter(adapter, folder, model.config)
    write_model_config(folder, model.config, pad=1, end_of_text=0, stop_ids=[0])
    return folder


def said(model: Transformer) -> list[Tensor]:
    with torch.no_grad():
        return outputs(model, texts(), **inputs(model.config))


def said_by(model: Any, like: Transformer) -> list[Tensor]:
    with torch.no_grad():
        return their_outputs(model.eval(), texts(), **inputs(like.config))


def assert_same(ours: list[Tensor], others: list[Tensor], *, within: float = 2e-5) -> None:
    for own, other in zip(ours, others, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=within * max(1.0, float(other.abs().max())))


def their_base(case: Case, base: Path) -> Any:
    """With a head of its own, if the case has one."""
    folder = base.with_name("theirs")
    if not folder.exists():
        folder.mkdir()
        exported(load_model(base, **case.head, seed=8), folder)
    return theirs(folder)


def beside(case: Case, base: Path, adapter: Path) -> Any:
    """The base of `transformers` with the adapter of the directory, by `peft`."""
    from peft import PeftModel

    # Its wrapper for spans drops the token types.
    return PeftModel.from_pretrained(their_base(case, base), adapter).get_base_model()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_we_write_computes_the_same_in_peft(case: Case, kind: dict[str, Any], tmp_path: Path) -> None:
    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base, **kind)
    ours = said(model)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, said(load_model(base).eval()), strict=True)) > 0.1
    assert_same(said_by(beside(case, base, write(model, adapter, tmp_path / "adapter")), model), ours)


@pytest.mark.parametrize("case", HEADED, ids=str)
def test_heads_are_written_with_the_adapter(case: Case, tmp_path: Path) -> None:
    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base)
    assert adapter.whole
    folder = write(model, adapter, tmp_path / "adapter")
    assert_same(said_by(beside(case, base, folder), model), said(model))
    assert_same(said(load_merged(base, folder).eval()), said(model))


@pytest.mark.parametrize(
    ("case", "targets"),
    [
        (LLAMA, ["q_proj", "mlp.down_proj"]),
        (LLAMA, ["model.layers.1.self_attn.v_proj"]),
        (Case("gpt2"), ["q_proj", "v_proj", "down_proj"]),
        (Case("bert"), ["v_proj", "o_proj"]),
        (Case("t5"), ["cross_attn.q_proj", "encoder.layers.0.mlp.up_proj"]),
    ],
    ids=str,
)
def test_some_layers(case: Case, targets: list[str], tmp_path: Path) -> None:
    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base, targets=targets)
    folder = write(model, adapter, tmp_path / "adapter")
    assert_same(said_by(beside(case, base, folder), model), said(model))
    assert PeftTensors(folder, model.config).layers == list(adapter.layers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_peft_writes_computes_the_same_here(case: Case, kind: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base)
    like = json.loads((write(model, adapter, tmp_path / "like") / peft_config.CONFIG).read_text())
    torch.manual_seed(4)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=like["target_modules"],
        fan_in_fan_out=like["fan_in_fan_out"],
        init_lora_weights=False,
        use_rslora=kind.get("scaling") == "rank_stabilized",
        use_dora=bool(kind.get("decomposed")),
    )
    made_by_peft = get_peft_model(their_base(case, base), config)
    made_by_peft.save_pretrained(tmp_path / "theirs")
    assert_same(said(load_merged(base, tmp_path / "theirs").eval()), said_by(made_by_peft, model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [LLAMA, Case("gpt2"), Case("bert", head={"head": "span"})], ids=str)
def test_there_and_back_changes_no_bit(case: Case, kind: dict[str, Any], tmp_path: Path) -> None:
    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base, **kind)
    folder = write(model, adapter, tmp_path / "adapter")
    _, again = adapted(case, base, **kind)
    fill(again, seed=9)
    load_adapter(again, folder, model.config)
    for (name, a), b in zip(adapter.tensors().items(), again.tensors().values(), strict=True):
        assert torch.equal(a, b), name
    assert PeftTensors(folder, model.config).spec == adapter.spec


@pytest.mark.parametrize("kind", [*KINDS, *QUANTISED])
@pytest.mark.parametrize("case", [*CASES, HEADED[0], HEADED[6]], ids=str)
def test_merged_it_computes_what_the_adapter_does(case: Case, kind: dict[str, Any], tmp_path: Path) -> None:
    """In memory, and as files that `transformers` and we load; targets are a part of the layers."""
    base = base_of(case, tmp_path / "base")
    model, adapter = adapted(case, base, targets=["q_proj", "k_proj", "v_proj", "down_proj"], **kind)
    expected = said(model)
    folder = write(model, adapter, tmp_path / "adapter")
    assert_same(said(load_merged(base, folder).eval()), expected, within=2e-4)
    merge(model, dtype=torch.float32)
    assert_same(said(model), expected, within=2e-4)
    assert {type(module).__name__ for module in model.modules()}.isdisjoint({"FrozenLinear", "LowRankLinear"})
    assert all(parameter.requires_grad for parameter in model.parameters())

    merged = tmp_path / "merged"
    merged.mkdir()
    for name, file in merged_files(base, folder, model.config).items():
        content = file.read_bytes() if isinstance(file, Path) else b"".join(file.blocks())
        assert isinstance(file, Path) or len(content) == file.num_bytes
        (merged / name).write_bytes(content)
    assert_same(said(load_model(merged).eval()), expected, within=2e-4)
    assert_same(said_by(theirs(merged), model), expected, within=2e-4)


def test_a_base_of_bf16_in_shards_is_merged_in_fp32(tmp_path: Path) -> None:
    base = tmp_path / "base"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base, max_shard_size="20KB")
    assert (base / "model.safetensors.index.json").exists()
    model, adapter = adapted(Case("llama"), base)
    folder = write(model, adapter, tmp_path / "adapter")
    merged = tmp_path / "merged"
    merged.mkdir()
    for name, file in merged_files(base, folder, model.config).items():
        content = file.read_bytes() if isinstance(file, Path) else b"".join(file.blocks())
        (merged / name).write_bytes(content)
    dtypes = {entry.dtype for entry in TensorFile(merged / "model.safetensors").entries.values()}
    assert dtypes == {"F32", "BF16"}
    whole = transformers.AutoModelForCausalLM.from_pretrained(merged, attn_implementation="eager")
    assert whole.dtype == torch.float32
    assert_same(said_by(whole, model), said(model))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 6}}, "rank_pattern"),
        ({"rank_pattern": [4]}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"r": None}, "rank"),
        ({"r": 0}, "rank"),
        ({"lora_alpha": "high"}, "alpha"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    model, adapter = adapted(LLAMA, base_of(LLAMA, tmp_path / "base"))
    folder = write(model, adapter, tmp_path / "adapter")
    path = folder / peft_config.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InvalidData, match=named) as refused:
        read_adapter_config(folder)
    assert refused.value.code == "unsupported_adapter"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"peft_type": "LORA"'])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / peft_config.CONFIG).write_text(content)
    with pytest.raises(InvalidData):
        read_adapter_config(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = base_of(LLAMA, tmp_path / "base")
    model, adapter = adapted(LLAMA, base)
    folder = write(model, adapter, tmp_path / "adapter")
    path = folder / peft_config.WEIGHTS
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for wrong, said_so in (
        ({key: value for key, value in tensors.items() if key != name}, "lora_B"),
        (tensors | {"base_model.model.model.embed_tokens.weight": torch.zeros(61, 32)}, "embed_tokens"),
        (tensors | {name: tensors[name][:2]}, "shape"),
        ({}, "no low-rank parts"),
    ):
        save_file(wrong, path)
        with pytest.raises(InvalidData, match=said_so):
            PeftTensors(folder, model.config)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidData):
        PeftTensors(folder, model.config)


def test_other_weights_than_the_layers_have_are_refused(tmp_path: Path) -> None:
    _, adapter = adapted(LLAMA, base_of(LLAMA, tmp_path / "base"))
    tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in adapter.tensors().items()}
    name = "model.layers.0.self_attn.q_proj.lora_A"
    for wrong, said_so in (
        ({key: value for key, value in tensors.items() if key != name}, "lack"),
        (tensors | {"model.layers.7.self_attn.q_proj.lora_A": tensors[name]}, "also have"),
        (tensors | {name: tensors[name][:2]}, "shape"),
    ):
        with pytest.raises(InvalidData, match=said_so):
            adapter.load(wrong)
