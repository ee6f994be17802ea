"""A base and an adapter as one Hugging Face directory, written while it is read: nothing is stored, no torch is needed.

Adapted matrices are written in fp32 whatever the base has, because a difference of an adapter's size does not survive
bf16; the rest keeps its bytes. `core.adapters.low_rank` computes the same with tensors.

Legend: I in features, O out features, R rank.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from core.adapters.peft_config import BASE, CONFIG, WEIGHTS
from core.adapters.peft_tensors import MATRIX, PeftTensors
from core.adapters.quantise import quantise
from core.adapters.targets import linear_layers
from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.names import stored_tensors
from core.models.stored import Stored
from core.models.tensor_files import Array, Entry, TensorFile

MODEL_CONFIG, MODEL_WEIGHTS = "config.json", "model.safetensors"


class Computed(Protocol):
    """A file that is made while it is read."""

    num_bytes: int

    def blocks(self) -> Iterator[bytes | memoryview]: ...


def files_below(directory: Path) -> dict[str, Path]:
    """By their names in it."""
    return {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}


def merged_files(base: Path, adapter: Path, config: ModelConfig) -> dict[str, Path | Computed]:
    """The Hugging Face directory of both together: the base's files with the adapter in its weights, and the adapter's
    tokenizer. `config`: of the model that they make.

    Raises:
        InvalidData: a file of weights cannot be read.
    """
    below = files_below(base)
    weights = [TensorFile(path) for name, path in below.items() if name.endswith(".safetensors")]
    texts = {
        name: path for name, path in below.items() if not name.endswith((".safetensors", ".safetensors.index.json"))
    }
    texts |= {name: path for name, path in files_below(adapter).items() if name not in (CONFIG, WEIGHTS, BASE)}
    files: dict[str, Path | Computed] = {
        **texts,
        MODEL_WEIGHTS: MergedWeights(weights, PeftTensors(adapter, config), config),
    }
    return files | {MODEL_CONFIG: WideConfig(texts[MODEL_CONFIG])}


class WideConfig:
    """`config.json` of a model that is to be loaded in fp32: else `transformers` would round what was merged."""

    def __init__(self, path: Path) -> None:
        config = json.loads(path.read_text())
        self.content = json.dumps(config | {"dtype": "float32", "torch_dtype": "float32"}, indent=2).encode()
        self.num_bytes = len(self.content)

    def blocks(self) -> Iterator[bytes | memoryview]:
        yield self.content


class MergedWeights:
    """`model.safetensors`. `num_bytes` is known before anything is computed."""

    def __init__(self, base: list[TensorFile], adapter: PeftTensors, config: ModelConfig) -> None:
        """
        Raises:
            InvalidData: the base lacks a tensor.
        """
        self._adapter, self._config = adapter, config
        self._places: dict[str, list[str]] = {}
        """ours by the name of the tensor in which they are written"""
        for ours, stored in stored_tensors(config).items():
            self._places.setdefault(stored.names[0], []).append(ours)
        self._found = {name: file for file in base for name in file.entries}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for theirs in self._places:
            dtype, shape, size = self._outline(theirs)
            header[theirs] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self.num_bytes = len(self._header) + at

    def blocks(self) -> Iterator[bytes | memoryview]:
        yield self._header
        for theirs in self._places:
            if self._changes(theirs):
                yield np.ascontiguousarray(self._merged(theirs), np.float32).data.cast("B")
            else:
                file, name, _ = self._in_base(theirs)
                yield file.bytes_of(name)

    def _outline(self, theirs: str) -> tuple[str, list[int], int]:
        """dtype, shape and bytes."""
        if self._is_whole(theirs):
            shape = self._adapter.read_whole(self._places[theirs][0]).shape
            return "F32", list(shape), 4 * int(np.prod(shape))
        _, _, entry = self._in_base(theirs)
        if self._changes(theirs):
            return "F32", list(entry.shape), 4 * int(np.prod(entry.shape))
        return entry.dtype, list(entry.shape), entry.end - entry.begin

    def _in_base(self, theirs: str) -> tuple[TensorFile, str, Entry]:
        for name in stored_tensors(self._config)[self._places[theirs][0]].names:
            if name in self._found:
                return self._found[name], name, self._found[name].entries[name]
        raise InvalidData(f"the base's weights lack {theirs}", code="corrupt_model")

    def _is_whole(self, theirs: str) -> bool:
        return self._places[theirs][0] in self._adapter.whole

    def _changes(self, theirs: str) -> bool:
        """Whether it is another after the merge."""
        layers = {name.removesuffix(MATRIX) for name in self._places[theirs]}
        is_quantised = self._adapter.spec.quantization != "none" and layers <= linear_layers(self._config).keys()
        return self._is_whole(theirs) or is_quantised or not layers.isdisjoint(self._adapter.layers)

    def _merged(self, theirs: str) -> Array:
        if self._is_whole(theirs):
            return self._adapter.read_whole(self._places[theirs][0])
        file, name, _ = self._in_base(theirs)
        stored: Stored = stored_tensors(self._config)[self._places[theirs][0]]
        matrix = file.read(name).T if stored.transposed else file.read(name)
        parts = np.split(matrix, stored.part[1])
        layers = [ours.removesuffix(MATRIX) for ours in self._places[theirs]]
        merged = np.concatenate([self._with_adapter(layer, part) for layer, part in zip(layers, parts, strict=True)])
        return merged.T if stored.transposed else merged

    def _with_adapter(self, layer: str, weight_OI: Array) -> Array:
        """W + f B A, W as it was while the adapter learned; with rows of the trained length where it says so."""
        spec = self._adapter.spec
        if spec.quantization != "none":
            values = np.ascontiguousarray(weight_OI)
            weight_OI = quantise(values, spec.quantization, double=spec.double_quantization).dense()
        if layer not in self._adapter.layers:
            return weight_OI
        own = self._adapter.low_rank(layer)
        matrix_OI = weight_OI + np.float32(spec.factor) * (own.b_OR @ own.a_RI)
        if own.magnitude_O is not None:
            matrix_OI *= (own.magnitude_O / np.linalg.norm(matrix_OI, axis=1))[:, None]
        return matrix_OI
