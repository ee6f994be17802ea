"""The tensors of a PEFT directory, in numpy: by our names and in our layout, whatever the family's files look like.

`peft` names tensors after the modules of `transformers`. Where those keep several of our matrices as one (GPT-2's
queries, keys and values), low-rank parts are joined: for ranks r and n matrices

    A = [A_1; …; A_n],   B = blocks (B_1, …, B_n) on the diagonal,   of rank n r with the same factor

which `rank_pattern` and `alpha_pattern` say. An adapter that others made there has one A for all: each of ours gets it.

Legend: I in features, O out features, R rank.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.adapters.peft_config import WEIGHTS, read_adapter_config
from core.adapters.spec import LoRA
from core.adapters.targets import layers_named, linear_layers, shortest_names, trained_whole
from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.directory import CONFIG as MODEL_CONFIG
from core.models.names import stored_shape, stored_tensors
from core.models.shapes import shapes
from core.models.stored import Stored
from core.models.tensor_files import Array, TensorFile

PREFIX, MATRIX = "base_model.model.", ".weight"
A, B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"


@dataclass(frozen=True)
class LowRank:
    """What is trained beside one of our linear layers."""

    a_RI: Array
    b_OR: Array
    magnitude_O: Array | None = None


class PeftTensors:
    """A directory's. What they are is checked before any is read."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        """
        Raises:
            InvalidData: codes `unsupported_adapter`, `corrupt_model`: they do not fit the model; the file is not whole.
        """
        spec = read_adapter_config(directory)
        self._config, self._file = config, TensorFile(directory / WEIGHTS)
        self._modules = {
            layer: module
            for layer in linear_layers(config)
            for module in _modules(stored_tensors(config)[layer + MATRIX])
            if f"{PREFIX}{module}.{A}{MATRIX}" in self._file.entries
        }
        if not self._modules:
            raise InvalidData(f"{WEIGHTS} has no low-rank parts of this model's layers", code="unsupported_adapter")
        self.spec = spec
        self._whole = {
            name: f"{PREFIX}{theirs}"
            for name in trained_whole(config)
            for theirs in stored_tensors(config)[name].names
            if f"{PREFIX}{theirs}" in self._file.entries
        }
        self._check_shapes()
        self._modules = {layer: module for layer, module in self._modules.items() if not self._is_absent(layer)}
        self.spec = spec.model_copy(update={"targets": layers_named(self._modules, config)})
        has_own_config = (directory / MODEL_CONFIG).is_file()
        if has_own_config and (lacking := [name for name in self._missing if name.startswith("head.")]):
            raise InvalidData(f"{WEIGHTS} lacks the model's {lacking[0]}", code="corrupt_model")

    @property
    def layers(self) -> list[str]:
        """Those that have a low-rank part, in the model's order."""
        return list(self._modules)

    @property
    def whole(self) -> list[str]:
        """Parameters that were trained as a whole: heads."""
        return list(self._whole)

    def low_rank(self, layer: str) -> LowRank:
        """
        Raises:
            InvalidData: parts that our layers do not share are mixed.
        """
        number = self._stored(layer).part[0]
        a_RI, b_OR = self._read(layer, f"{A}{MATRIX}"), self._read(layer, f"{B}{MATRIX}")
        own = self._rows(b_OR, layer)
        if len(a_RI) > self.spec.rank:
            columns = self._columns(number)
            if np.count_nonzero(own) != np.count_nonzero(own[:, columns]):
                raise InvalidData(f"{layer}: its rank is above {self.spec.rank}", code="unsupported_adapter")
            a_RI, own = a_RI[columns], own[:, columns]
        magnitude_O = self._rows(self._read(layer, MAGNITUDE), layer) if self.spec.decomposed else None
        return LowRank(a_RI, own, magnitude_O)

    def read_whole(self, name: str) -> Array:
        return self._file.read(self._whole[name])

    @property
    def _missing(self) -> list[str]:
        return [name for name in trained_whole(self._config) if name not in self._whole]

    def _is_absent(self, layer: str) -> bool:
        """Among joined matrices, zeros stand for one that has no low-rank part."""
        number, parts = self._stored(layer).part
        if parts == 1:
            return False
        a_RI = self._read(layer, f"{A}{MATRIX}")
        return len(a_RI) > self.spec.rank and not a_RI[self._columns(number)].any()

    def _columns(self, number: int) -> slice:
        """Of a joined adapter, those of one of its matrices."""
        return slice(number * self.spec.rank, (number + 1) * self.spec.rank)

    def _stored(self, layer: str) -> Stored:
        return stored_tensors(self._config)[layer + MATRIX]

    def _rows(self, joined: Array, layer: str) -> Array:
        number, parts = self._stored(layer).part
        size = len(joined) // parts
        return joined[number * size : (number + 1) * size]

    def _read(self, layer: str, part: str) -> Array:
        return self._file.read(f"{PREFIX}{self._modules[layer]}.{part}")

    def _check_shapes(self) -> None:
        rank = self.spec.rank
        wanted: dict[str, set[tuple[int, ...]]] = {}
        for layer, module in self._modules.items():
            parts = self._stored(layer).part[1]
            columns, rows = linear_layers(self._config)[layer]
            ranks = {rank, parts * rank}
            wanted[f"{PREFIX}{module}.{A}{MATRIX}"] = {(r, columns) for r in ranks}
            wanted[f"{PREFIX}{module}.{B}{MATRIX}"] = {(parts * rows, r) for r in ranks}
            if self.spec.decomposed:
                wanted[f"{PREFIX}{module}.{MAGNITUDE}"] = {(parts * rows,)}
        for name, theirs in self._whole.items():
            wanted[theirs] = {stored_shape(shapes(self._config)[name], stored_tensors(self._config)[name])}
        found = {name: entry.shape for name, entry in self._file.entries.items()}
        for name in sorted(found.keys() | wanted.keys()):
            if name not in wanted:
                raise InvalidData(
                    f"{WEIGHTS} also holds {name}: only low-rank parts of linear layers, and heads, are available here",
                    code="unsupported_adapter",
                    hint="An adapter with embeddings or whole layers of its own: merge it in `peft`, import the model.",
                )
            if found.get(name) not in wanted[name]:
                needed = " or ".join(map(str, sorted(wanted[name])))
                raise InvalidData(
                    f"{name} has the shape {found.get(name)}, the model and rank {rank} need {needed}",
                    code="unsupported_adapter",
                )


def _saved_module(stored: Stored) -> str:
    """The module that is saved whole; `peft` takes what is called `classifier` in one piece."""
    name = stored.names[0]
    return "classifier" if name.startswith("classifier.") else name.rpartition(".")[0]


def _modules(stored: Stored) -> list[str]:
    """What `transformers` may call the module of a matrix; the first is written."""
    return [name.removesuffix(MATRIX) for name in stored.names]


@dataclass(frozen=True)
class Written:
    """An adapter as `peft` has it: tensors, and what its config says of modules."""

    tensors: dict[str, Array]
    modules: dict[str, Any]


def written(spec: LoRA, layers: Mapping[str, LowRank], whole: Mapping[str, Array], config: ModelConfig) -> Written:
    """From ours to theirs."""
    stored = stored_tensors(config)
    joined: dict[str, dict[int, LowRank]] = {}
    for layer, low_rank in layers.items():
        place = stored[layer + MATRIX]
        joined.setdefault(_modules(place)[0], {})[place.part[0]] = low_rank
    parts = {_modules(place)[0]: place.part[1] for place in stored.values()}
    tensors: dict[str, Array] = {}
    for module, present in joined.items():
        for name, array in _joined(present, parts[module], spec.rank):
            tensors[f"{PREFIX}{module}.{name}"] = array
    tensors |= {f"{PREFIX}{stored[name].names[0]}": array for name, array in whole.items()}
    fused = {module: parts[module] for module in joined if parts[module] > 1}
    everything = {_modules(place)[0] for name, place in stored.items() if name.endswith(MATRIX)}
    root = spec.scaling == "rank_stabilized"
    modules = {
        "target_modules": shortest_names(joined, everything),
        "fan_in_fan_out": any(stored[layer + MATRIX].transposed for layer in layers),
        "rank_pattern": {module: n * spec.rank for module, n in fused.items()},
        "alpha_pattern": {module: spec.alpha * (math.sqrt(n) if root else n) for module, n in fused.items()},
        "modules_to_save": sorted({_saved_module(stored[name]) for name in whole}) or None,
    }
    return Written(tensors, modules)


def _joined(present: Mapping[int, LowRank], parts: int, rank: int) -> Iterator[tuple[str, Array]]:
    first = next(iter(present.values()))
    rows, columns = len(first.b_OR), first.a_RI.shape[1]
    a, b = np.zeros((parts * rank, columns), np.float32), np.zeros((parts * rows, parts * rank), np.float32)
    for number, low_rank in present.items():
        own = slice(number * rank, (number + 1) * rank)
        a[own], b[number * rows : (number + 1) * rows, own] = low_rank.a_RI, low_rank.b_OR
    yield f"{A}{MATRIX}", a
    yield f"{B}{MATRIX}", b
    magnitudes = [low_rank.magnitude_O for _, low_rank in sorted(present.items()) if low_rank.magnitude_O is not None]
    if magnitudes:
        yield MAGNITUDE, np.concatenate(magnitudes)
