"""An operator's offline command: turns a GGUF file into a Hugging Face directory that this service loads.

    python -m core.models.gguf model.gguf out_dir

Needs numpy and the `gguf` package. Only for files that the operator trusts: the parser of the `gguf` package is not
hardened, so the API never takes a GGUF from a user.

Two things in such a file differ from Hugging Face's layout, and nothing fails if they are overlooked. The rows of the
q and k projections are interleaved for rotary positions that turn neighbouring coordinates, where Hugging Face's turn
the two halves of a head; and the pre-tokenizer is a name (`tokenizer.ggml.pre`), not a definition.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from core.errors import InvalidData

TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS_FIRST = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False},
        {**_BYTE_LEVEL, "use_regex": False},
    ],
}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": _DIGITS_FIRST,
    "starcoder": _DIGITS_FIRST,
    "refact": _DIGITS_FIRST,
    "llama-bpe": _LLAMA3,
}
"""what each value of `tokenizer.ggml.pre` stands for"""
CONTROL, USER_DEFINED = 3, 4
"""token types: never produced from text; added to the vocabulary later"""

Weights = npt.NDArray[np.float32]


def convert(source: Path, directory: Path) -> None:
    """Write `config.json`, `model.safetensors` (bfloat16), the tokenizer and its chat template; tensor by tensor.

    Raises:
        InvalidData: the file is no GGUF, or holds a model or tokenizer that this service does not know.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InvalidData(f"{directory} is not empty", hint="name a new directory")
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, OSError) as error:
        raise InvalidData(f"{source.name} cannot be read as GGUF: {error}", code="invalid_gguf") from error
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(facts, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    tokenizer, tokenizer_config = _tokenizer(facts)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", tokenizer_config)
    if template := facts.get("tokenizer.chat_template"):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    _write_weights(directory / "model.safetensors", reader.tensors, config)
    _write_json(directory / "config.json", config)


def _config(facts: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """Hugging Face's `config.json`."""
    architecture = facts.get("general.architecture")
    if architecture != "llama":
        raise InvalidData(f"the architecture {architecture!r} is not known; known is 'llama'", code="invalid_gguf")
    if scaling := facts.get("llama.rope.scaling.type"):
        raise InvalidData(f"scaled rotary positions ({scaling}) are not known", code="invalid_gguf")
    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    head_dim = facts.get("llama.attention.key_length", width // heads)
    if facts.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise InvalidData("rotary positions on a part of a head are not known", code="invalid_gguf")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "dtype": "bfloat16",
        "eos_token_id": facts.get("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _decimal(facts["llama.attention.layer_norm_rms_epsilon"]),
        "rope_scaling": None,
        "rope_theta": _decimal(facts.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": tied,
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
    }


def _decimal(value: float) -> float:
    """The number that was meant: GGUF keeps 32-bit floats, where 1e-05 reads as 9.999999747e-06."""
    return float(str(np.float32(value)))


def _tokenizer(facts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tokenizer.json` and `tokenizer_config.json` from the file's own vocabulary, merges and names."""
    kind, pre = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise InvalidData(f"the tokenizer {kind!r} is not known; known is 'gpt2' (byte-level BPE)", code="invalid_gguf")
    if pre not in PRE_TOKENIZERS:
        raise InvalidData(
            f"the pre-tokenizer {pre!r} is not known; known: {', '.join(PRE_TOKENIZERS)}", code="invalid_gguf"
        )
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    types: list[int] = facts["tokenizer.ggml.token_type"]
    added = [
        {
            "id": id,
            "content": tokens[id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for id, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: facts.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in facts["tokenizer.ggml.merges"]],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        **{f"{name}_token": tokens[id] for name, id in ids.items() if id is not None},
    }
    return tokenizer, config


def _write_weights(path: Path, tensors: list[Any], config: dict[str, Any]) -> None:
    """safetensors: eight bytes of header length, the header, the data. One tensor is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    kept = [tensor for tensor in tensors if tensor.name != "rope_freqs.weight"]
    end = 0
    for tensor in kept:
        shape = [int(size) for size in reversed(tensor.shape)]  # GGUF names the innermost first
        start, end = end, end + 2 * int(np.prod(shape))
        header[_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for weights in _weights(kept, config):
            file.write(_bfloat16(weights).tobytes())


def _weights(tensors: list[Any], config: dict[str, Any]) -> Iterator[Weights]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in tensors:
        weights = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if not np.isfinite(weights).all():
            raise InvalidData(f"{tensor.name} holds numbers that are not finite", code="invalid_gguf")
        projection = tensor.name.split(".")[-2]
        yield _unpermuted(weights, heads[projection]) if projection in heads else weights


def _unpermuted(weights: Weights, num_heads: int) -> Weights:
    """Rows of each head from (pair, half) order back to (half, pair) order."""
    rows, width = weights.shape
    return weights.reshape(num_heads, rows // num_heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def _bfloat16(weights: Weights) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(weights).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _name(name: str) -> str:
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    prefix, _, rest = name.partition(".")
    layer, _, projection = rest.partition(".")
    if prefix != "blk" or not projection.endswith(".weight") or projection[:-7] not in LAYER_NAMES:
        raise InvalidData(f"the tensor {name!r} has no place in a Llama model", code="invalid_gguf")
    return f"model.layers.{layer}.{LAYER_NAMES[projection[:-7]]}.weight"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.models.gguf", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="a GGUF file that you trust")
    parser.add_argument("directory", type=Path, help="new directory for the model")
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.directory)
    except InvalidData as error:
        sys.exit(f"{error.message}. {error.hint or ''}".rstrip())


if __name__ == "__main__":
    main()
