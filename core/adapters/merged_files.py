"""A base and an adapter as one Hugging Face directory, written while it is read: nothing is stored, no torch is needed.

Adapted matrices are written in fp32 whatever the base has, because a difference of an adapter's size does not survive
bf16; the rest keeps its bytes. `core.adapters.low_rank` computes the same with tensors.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from core.adapters.peft_config import BASE, CONFIG, WEIGHTS, read_adapter_config
from core.adapters.quantise import quantise
from core.adapters.spec import LoRA
from core.adapters.targets import linear_layers
from core.models.config import ModelConfig
from core.models.tensor_files import Array, Entry, TensorFile

PREFIX, MATRIX = "base_model.model.", ".weight"
MODEL_CONFIG = "config.json"


class Computed(Protocol):
    """A file that is made while it is read."""

    num_bytes: int

    def blocks(self) -> Iterator[bytes | memoryview]: ...


def files_below(directory: Path) -> dict[str, Path]:
    """By their names in it."""
    return {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}


def merged_files(base: Path, adapter: Path, config: ModelConfig) -> dict[str, Path | Computed]:
    """The Hugging Face directory of both together: the base's files with the adapter in its weights, and the adapter's
    tokenizer.

    Raises:
        InvalidData: a file of weights cannot be read.
    """
    weights = AdapterFile(adapter, linear_layers(config))
    files: dict[str, Path | Computed] = {}
    for name, path in files_below(base).items():
        if path.suffix == ".safetensors":
            files[name] = MergedWeights(TensorFile(path), weights)
        elif name == MODEL_CONFIG:
            files[name] = WideConfig(path)
        else:
            files[name] = path
    own = {CONFIG, WEIGHTS, BASE}
    return files | {name: path for name, path in files_below(adapter).items() if name not in own}


class WideConfig:
    """`config.json` of a model that is to be loaded in fp32: else `transformers` would round what was merged."""

    def __init__(self, path: Path) -> None:
        config = json.loads(path.read_text())
        self.content = json.dumps(config | {"dtype": "float32", "torch_dtype": "float32"}, indent=2).encode()
        self.num_bytes = len(self.content)

    def blocks(self) -> Iterator[bytes | memoryview]:
        yield self.content


class MergedWeights:
    """One file of the base's weights, with the adapter in it. `num_bytes` is known before anything is computed."""

    def __init__(self, base: TensorFile, adapter: "AdapterFile") -> None:
        self.base, self.adapter = base, adapter
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, entry in self._in_order():
            changes = adapter.changes(name)
            size = 4 * int(np.prod(entry.shape)) if changes else entry.end - entry.begin
            dtype = "F32" if changes else entry.dtype
            header[name] = {"dtype": dtype, "shape": list(entry.shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.num_bytes = len(self.header) + at

    def blocks(self) -> Iterator[bytes | memoryview]:
        yield self.header
        for name, _ in self._in_order():
            if self.adapter.changes(name):
                merged = np.ascontiguousarray(self.adapter.merged(name, self.base.read(name)), np.float32)
                yield merged.data.cast("B")
            else:
                yield self.base.bytes_of(name)

    def _in_order(self) -> list[tuple[str, Entry]]:
        return sorted(self.base.entries.items(), key=lambda item: (item[1].begin, item[1].end))


class AdapterFile:
    """The weights of a PEFT directory. `linears`: names of the base's linear layers."""

    def __init__(self, directory: Path, linears: Collection[str]) -> None:
        self.spec: LoRA = read_adapter_config(directory)
        self.file = TensorFile(directory / WEIGHTS)
        self.linears = linears

    def changes(self, name: str) -> bool:
        """Whether the base's tensor of this name is another after the merge."""
        is_quantised = self.spec.quantization != "none" and name.removesuffix(MATRIX) in self.linears
        return is_quantised or self._is_target(name)

    def merged(self, name: str, weight_OI: Array) -> Array:
        """W + f B A, W as it was while the adapter learned; with rows of the trained length where it says so."""
        if self.spec.quantization != "none":
            weight_OI = quantise(weight_OI, self.spec.quantization, double=self.spec.double_quantization).dense()
        if not self._is_target(name):
            return weight_OI
        a_RI, b_OR = self._read(name, "lora_A.weight"), self._read(name, "lora_B.weight")
        matrix_OI = weight_OI + np.float32(self.spec.factor) * (b_OR @ a_RI)
        if self.spec.decomposed:
            lengths_O = np.linalg.norm(matrix_OI, axis=1)
            matrix_OI *= (self._read(name, "lora_magnitude_vector") / lengths_O)[:, None]
        return matrix_OI

    def _is_target(self, name: str) -> bool:
        return self._part(name, "lora_A.weight") in self.file.entries

    def _read(self, name: str, part: str) -> Array:
        return self.file.read(self._part(name, part))

    def _part(self, name: str, part: str) -> str:
        return f"{PREFIX}{name.removesuffix(MATRIX)}.{part}"
