"""A GGUF file becomes a Hugging Face directory that this service loads. Only for files that the operator trusts."""

import json
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from core.errors import InvalidData
from core.models import families
from core.models.config import Dimensions, ModelConfig
from core.models.directory import CONFIG, GENERATION_CONFIG
from core.models.gguf import layout, vocabulary
from core.models.gguf.layout import Array
from core.models.names import stored_shape, stored_tensors
from core.models.shapes import shapes
from core.models.stored import Stored

Dtype = Literal["F32", "F16", "BF16"]
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
IGNORED = ("rope_freqs.weight",)


def convert(source: Path, directory: Path, *, dtype: Dtype | None = None) -> None:
    """Write `config.json`, `model.safetensors`, the tokenizer and its chat template; tensor by tensor.

    `dtype`: of the weights; None: F32 and F16 stay what they are, and anything else becomes BF16.

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
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name not in IGNORED}
    try:
        config = model_config(facts, tied="output.weight" not in tensors)
    except KeyError as error:
        raise InvalidData(f"{source.name} does not say {error}", code="invalid_gguf") from error
    tokenizer, tokenizer_config = vocabulary.read(facts, context_length=config.context_length)
    _check(config, tensors)
    dtype = dtype or _usual(tensors)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", tokenizer_config)
    if template := facts.get("tokenizer.chat_template"):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    _write_weights(directory / "model.safetensors", tensors, config, dtype)
    ids = {f"{role}_token_id": facts.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    ids["pad_token_id"] = facts.get("tokenizer.ggml.padding_token_id")
    named = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    _write_json(directory / CONFIG, families.FAMILIES[config.family].write_config(config) | ids | {"dtype": named})
    ends = [facts.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
    stops = list(dict.fromkeys(id for id in ends if id is not None))
    _write_json(directory / GENERATION_CONFIG, ids | {"eos_token_id": stops})


def model_config(facts: dict[str, Any], *, tied: bool) -> ModelConfig:
    """
    Raises:
        InvalidData: another architecture, or one with parts that are not known.
    """
    family = facts.get("general.architecture")
    if family not in layout.FAMILIES:
        known = ", ".join(layout.FAMILIES)
        raise InvalidData(f"the architecture {family!r} is not known; known: {known}", code="invalid_gguf")
    own = {name.removeprefix(f"{family}."): value for name, value in facts.items() if name.startswith(f"{family}.")}
    if scaling := own.get("rope.scaling.type"):
        raise InvalidData(f"scaled rotary positions ({scaling}) are not known", code="invalid_gguf")
    heads, width = own["attention.head_count"], own["embedding_length"]
    head_dim = own.get("attention.key_length", width // heads)
    if own.get("rope.dimension_count", head_dim) != head_dim:
        raise InvalidData("rotary positions on a part of a head are not known", code="invalid_gguf")
    given = {
        "hidden_size": width,
        "num_layers": own["block_count"],
        "num_heads": heads,
        "num_kv_heads": own.get("attention.head_count_kv"),
        "head_dim": head_dim,
        "intermediate_size": own["feed_forward_length"],
        "context_length": own["context_length"],
        "tied_embeddings": tied,
        "rope_theta": _decimal(own.get("rope.freq_base", 10000.0)),
        "norm_eps": _decimal(own[f"attention.layer_norm_{'' if family == 'gpt2' else 'rms_'}epsilon"]),
    }
    used = {name: value for name, value in given.items() if name not in families.FAMILIES[family].UNUSED}
    try:
        return families.shape(family, Dimensions.model_validate(used), vocab_size=len(facts["tokenizer.ggml.tokens"]))
    except ValidationError as error:
        raise InvalidData(f"its dimensions do not fit: {error.errors()[0]['msg']}", code="invalid_gguf") from error


def _decimal(value: float) -> float:
    """The number that was meant: GGUF keeps 32-bit floats, where 1e-05 reads as 9.999999747e-06."""
    return float(str(np.float32(value)))


def _check(config: ModelConfig, tensors: dict[str, Any]) -> None:
    """Every tensor has its place, and every place its tensor.

    Raises:
        InvalidData: one is missing, too many, or of another shape.
    """
    wanted = {
        place.names[0]: stored_shape(shapes(config)[ours], place) for ours, place in layout.placed(config).items()
    }
    for name in tensors:
        if name not in wanted:
            raise InvalidData(f"the tensor {name!r} has no place in a {config.family} model", code="invalid_gguf")
    for name, shape in wanted.items():
        found = tuple(int(size) for size in reversed(tensors[name].shape)) if name in tensors else None
        if found != shape:
            raise InvalidData(f"{name} has the shape {found}, the model says {shape}", code="invalid_gguf")


def _usual(tensors: dict[str, Any]) -> Dtype:
    kinds = {tensor.tensor_type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    if kinds <= {"F32"}:
        return "F32"
    return "F16" if kinds <= {"F32", "F16"} else "BF16"


def _write_weights(path: Path, tensors: dict[str, Any], config: ModelConfig, dtype: Dtype) -> None:
    """safetensors: eight bytes of header length, the header, the data. A few tensors are in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    groups = _groups(config)
    end = 0
    for name, parts in groups.items():
        ours, stored = parts[0]
        shape = stored_shape(shapes(config)[ours], stored)
        start, end = end, end + BYTES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for parts in groups.values():
            weights = np.concatenate([_weights(ours, config, tensors) for ours, _ in parts])
            weights = weights.T if parts[0][1].transposed else weights
            file.write(_as(dtype, np.ascontiguousarray(weights)).tobytes())


def _groups(config: ModelConfig) -> dict[str, list[tuple[str, Stored]]]:
    """Ours by the tensor of a Hugging Face file that they make up."""
    groups: dict[str, list[tuple[str, Stored]]] = {}
    for ours, stored in stored_tensors(config).items():
        groups.setdefault(stored.names[0], []).append((ours, stored))
    return groups


def _weights(ours: str, config: ModelConfig, tensors: dict[str, Any]) -> Array:
    """
    Raises:
        InvalidData: a number is not finite.
    """
    place = layout.placed(config)[ours]
    tensor = tensors[place.names[0]]
    weights: Array = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if not np.isfinite(weights).all():
        raise InvalidData(f"{tensor.name} holds numbers that are not finite", code="invalid_gguf")
    part, parts = place.part
    rows = len(weights) // parts
    weights = weights[part * rows : (part + 1) * rows]
    heads = layout.num_interleaved_heads(ours, config)
    return layout.separated(weights, heads) if heads else weights


def _as(dtype: Dtype, weights: Array) -> NDArray[Any]:
    if dtype == "F32":
        return weights
    if dtype == "F16":
        return weights.astype(np.float16)
    bits = weights.view(np.uint32)  # to nearest, ties to even
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
