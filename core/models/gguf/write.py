"""A Hugging Face directory of ours becomes a GGUF file that llama.cpp and its kin answer with: weights, tokenizer, chat
template, and the tokens that end an answer."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.directory import read_model_config, weight_files
from core.models.gguf import layout, vocabulary
from core.models.gguf.layout import FILE_KINDS, Array, TensorKind
from core.models.names import check_shapes, stored_shape, stored_tensors
from core.models.shapes import shapes
from core.models.tensor_files import TensorFile

BLOCK = 32
"""numbers that share a scale in Q8_0 and Q4_0: a row must be whole blocks"""
QUANTISATION_VERSION = 2


def export(directory: Path, target: Path, kind: TensorKind, *, name: str | None = None) -> None:
    """Write the file, tensor by tensor.

    Matrices are of `kind`; norms, biases and positions stay F32. With Q4_0 the embeddings and the output matrix are
    Q8_0, as four bits hurt there most. Matrices whose rows are no whole blocks are F16.

    Raises:
        InvalidData: no decoder with a language-model head, or a tokenizer that GGUF has no name for.
    """
    config = read_model_config(directory)
    if config.family not in layout.FAMILIES or config.head != "language_model":
        known = ", ".join(layout.FAMILIES)
        raise InvalidData(
            f"a {config.family} model with the head {config.head} cannot be written as GGUF; "
            f"language models of these families can: {known}",
            code="cannot_export",
        )
    files = [TensorFile(path) for path in weight_files(directory)]
    check_shapes(
        config,
        {name: list(entry.shape) for file in files for name, entry in file.entries.items()},
        code="corrupt_model",
    )
    writer = gguf.GGUFWriter(target, config.family)
    try:
        _describe(writer, config, kind, name=name or directory.name)
        vocabulary.write(writer, directory, vocab_size=config.vocab_size)
        _write_tensors(writer, config, files, kind)
    except BaseException:
        writer.close()
        target.unlink(missing_ok=True)
        raise
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: ModelConfig, kind: TensorKind, *, name: str) -> None:
    writer.add_name(name)
    writer.add_file_type(FILE_KINDS[kind])
    writer.add_quantization_version(QUANTISATION_VERSION)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)


def _write_tensors(writer: gguf.GGUFWriter, config: ModelConfig, files: list[TensorFile], kind: TensorKind) -> None:
    groups: dict[str, list[str]] = {}
    for ours, place in layout.placed(config).items():
        groups.setdefault(place.names[0], []).append(ours)
    kinds = {}
    for name, parts in groups.items():
        shape = stored_shape(shapes(config)[parts[0]], layout.placed(config)[parts[0]])
        kinds[name] = found = tensor_kind(name, shape, kind)
        raw = gguf.quant_shape_to_byte_shape(shape, found)
        writer.add_tensor_info(name, raw, np.dtype(np.uint8), int(np.prod(raw)), raw_dtype=found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, parts in groups.items():
        weights = np.concatenate([_weights(ours, config, files) for ours in parts])
        writer.write_tensor_data(np.ascontiguousarray(quantised(weights, kinds[name])).view(np.uint8))


def tensor_kind(name: str, shape: tuple[int, ...], kind: TensorKind) -> gguf.GGMLQuantizationType:
    """Which kind a tensor gets in a file of this kind."""
    kinds = gguf.GGMLQuantizationType
    if len(shape) == 1 or kind == "F32" or name == "position_embd.weight":
        return kinds.F32
    if kind == "F16" or shape[-1] % BLOCK:
        return kinds.F16
    return kinds.Q8_0 if kind == "Q8_0" or name in ("token_embd.weight", "output.weight") else kinds.Q4_0


def quantised(weights: Array, kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    found: NDArray[Any] = gguf.quantize(weights, kind)
    return found


def _weights(ours: str, config: ModelConfig, files: list[TensorFile]) -> Array:
    """A parameter of ours, fp32, with its rows in the order of the file that is written."""
    stored = stored_tensors(config)[ours]
    theirs, file = next((name, file) for name in stored.names for file in files if name in file.entries)
    weights: Array = np.asarray(file.read(theirs), dtype=np.float32)
    weights = weights.T if stored.transposed else weights
    part, parts = stored.part
    rows = len(weights) // parts
    weights = weights[part * rows : (part + 1) * rows]
    heads = layout.num_interleaved_heads(ours, config)
    return layout.interleaved(weights, heads) if heads else weights
