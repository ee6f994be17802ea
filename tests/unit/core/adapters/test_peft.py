"""PEFT's directories in and out: `peft` gives our logits, and we give those of `peft`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.adapters import peft_config
from core.adapters.attach import Attached, attach_to, merge
from core.adapters.merged_files import merged_files
from core.adapters.peft_config import AdapterBase, read_adapter_config
from core.adapters.peft_directory import load_adapter_weights, load_merged, save_adapter
from core.adapters.spec import LoRA
from core.adapters.targets import resolved
from core.errors import InvalidData
from core.models.tensor_files import TensorFile
from core.models.transformer import Transformer
from core.models.weights import load_model
from tests.unit.core.adapters.conftest import KINDS, QUANTISED, fill
from tests.unit.core.models.test_transformer import logits

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS_BT = torch.arange(2, 42).view(2, 20)
BASE = AdapterBase(model="im:lab:base:1a2b3c4d", manifest_sha256="0" * 64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as `transformers` writes it, in two shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="30KB")
    return folder


def adapted(base: Path, **spec: Any) -> tuple[Transformer, Attached]:
    """Our model with an adapter beside it that changes its logits a lot."""
    model = load_model(base).eval()
    given = resolved(LoRA(**({"rank": 4, "alpha": 6.0} | spec)), model.config)
    base_of = BASE.model_copy(
        update={"quantization": given.quantization, "double_quantization": given.double_quantization}
    )
    adapter = attach_to(model, given, seed=1, dtype=torch.float32, base=base_of)
    fill(adapter)
    return model, adapter


def write(adapter: Attached, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_adapter(adapter, folder, task_type="CAUSAL_LM")


def peft_logits(base: Path, folder: Path) -> Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"), folder)
    with torch.no_grad():
        found: Tensor = model.eval()(IDS_BT).logits
    return found


@pytest.mark.parametrize("targets", [None, ["q_proj", "mlp.down_proj"], ["model.layers.1.self_attn.v_proj"]])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_we_write_gives_our_logits_in_peft(
    base: Path, tmp_path: Path, kind: dict[str, Any], targets: list[str] | None
) -> None:
    model, adapter = adapted(base, targets=targets, **kind)
    write(adapter, tmp_path)
    ours = logits(model, IDS_BT)
    assert (ours - logits(load_model(base).eval(), IDS_BT)).abs().max() > 0.1
    torch.testing.assert_close(peft_logits(base, tmp_path), ours, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_peft_wrote_gives_its_logits_here(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(4)
    options = {"use_rslora": kind.get("scaling") == "rank_stabilized", "use_dora": bool(kind.get("decomposed"))}
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights=False, **options)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"), config)
    theirs.save_pretrained(tmp_path)
    model = load_merged(base, tmp_path).eval()
    torch.testing.assert_close(logits(model, IDS_BT), theirs.eval()(IDS_BT).logits, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_changes_no_bit(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    _, adapter = adapted(base, **kind)
    write(adapter, tmp_path)
    _, again = adapted(base, **kind)
    fill(again, seed=9)
    tensors = load_adapter_weights(tmp_path)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values())
    again.load(tensors)
    for a, b in zip(adapter.tensors().values(), again.tensors().values(), strict=True):
        assert torch.equal(a, b)
    assert read_adapter_config(tmp_path).model_copy(update={"targets": adapter.spec.targets}) == adapter.spec


@pytest.mark.parametrize("kind", [*KINDS, *QUANTISED])
@torch.no_grad()
def test_merged_it_gives_the_logits_of_the_adapter(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    """In memory, and as files that `transformers` and we load; a target is half of the layers."""
    from transformers import AutoModelForCausalLM

    model, adapter = adapted(base, targets=["q_proj", "down_proj"], **kind)
    expected = logits(model, IDS_BT)
    write(adapter, tmp_path / "adapter")
    loaded = load_merged(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, IDS_BT), expected, rtol=1e-5, atol=2e-5)
    merge(model, dtype=torch.float32)
    torch.testing.assert_close(logits(model, IDS_BT), expected, rtol=1e-5, atol=2e-5)
    assert {type(module).__name__ for module in model.modules()}.isdisjoint({"FrozenLinear", "LowRankLinear"})
    assert all(parameter.requires_grad for parameter in model.parameters())

    merged = tmp_path / "merged"
    merged.mkdir()
    for name, file in merged_files(base, tmp_path / "adapter", model.config).items():
        content = file.read_bytes() if isinstance(file, Path) else b"".join(file.blocks())
        assert isinstance(file, Path) or len(content) == file.num_bytes
        (merged / name).write_bytes(content)
    torch.testing.assert_close(logits(load_model(merged).eval(), IDS_BT), expected, rtol=1e-5, atol=2e-5)
    theirs = AutoModelForCausalLM.from_pretrained(merged, attn_implementation="eager")
    torch.testing.assert_close(theirs(IDS_BT).logits, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"r": None}, "rank"),
        ({"r": 0}, "rank"),
        ({"lora_alpha": "high"}, "alpha"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    base: Path, tmp_path: Path, values: dict[str, Any], named: str
) -> None:
    _, adapter = adapted(base)
    write(adapter, tmp_path)
    path = tmp_path / peft_config.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InvalidData, match=named) as refused:
        read_adapter_config(tmp_path)
    assert refused.value.code == "unsupported_adapter"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"peft_type": "LORA"'])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / peft_config.CONFIG).write_text(content)
    with pytest.raises(InvalidData):
        read_adapter_config(tmp_path)


def test_broken_weights_are_refused(base: Path, tmp_path: Path) -> None:
    _, adapter = adapted(base)
    write(adapter, tmp_path)
    tensors = load_adapter_weights(tmp_path)
    name = "model.layers.0.self_attn.q_proj.lora_A"
    for wrong, said in (
        ({key: value for key, value in tensors.items() if key != name}, "lack"),
        (tensors | {"model.layers.7.self_attn.q_proj.lora_A": tensors[name]}, "also have"),
        (tensors | {name: tensors[name][:2]}, "shape"),
    ):
        with pytest.raises(InvalidData, match=said):
            adapter.load(wrong)
    path = tmp_path / peft_config.WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    for read in (lambda: load_adapter_weights(tmp_path), lambda: TensorFile(path)):
        with pytest.raises(InvalidData):
            read()
