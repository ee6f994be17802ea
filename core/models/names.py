"""Where the tensors of a model stand in a Hugging Face directory. No torch: an import checks shapes with it."""

import re
from collections.abc import Mapping
from functools import lru_cache

from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.families import FAMILIES
from core.models.shapes import shapes
from core.models.stored import Stored

_LAYER = re.compile(r"\.(\d+)\.")


@lru_cache(maxsize=64)
def stored_tensors(config: ModelConfig) -> dict[str, Stored]:
    """For each parameter, in the order of the model."""
    modules: Mapping[str, Stored] = FAMILIES[config.family].names(config)
    return {name: _stored(name, modules) for name in shapes(config)}


def _stored(name: str, modules: Mapping[str, Stored]) -> Stored:
    """A family names modules, or single parameters where they differ; `{}` stands for the number of a layer."""
    layer = next(iter(_LAYER.findall(name)), "")
    pattern = _LAYER.sub(".{}.", name, count=1)
    module, _, kind = pattern.rpartition(".")
    if pattern in modules:
        found, suffix = modules[pattern], ""
    else:
        found, suffix = modules[module], f".{kind}"
    return found.renamed(lambda theirs: theirs.format(layer) + suffix, is_matrix=kind == "weight")


def stored_shape(shape: tuple[int, ...], stored: Stored) -> tuple[int, ...]:
    """Of the file's tensor that holds a parameter of this shape."""
    rows = (shape[0] * stored.part[1], *shape[1:])
    if stored.transposed:
        rows = rows[::-1]
    return (1, *rows) if stored.has_leading_one else rows


def check_shapes(config: ModelConfig, found: Mapping[str, list[int]], *, code: str) -> None:
    """Compare the names and shapes in a model's files with its `config.json`.

    Raises:
        InvalidData: a tensor is missing or has another shape.
    """
    for name, shape in shapes(config).items():
        stored = stored_tensors(config)[name]
        present = next((theirs for theirs in stored.names if theirs in found), None)
        if present is None:
            raise InvalidData(f"the weights lack {stored.names[0]}", code=code)
        given, wanted = found[present], list(stored_shape(shape, stored))
        if given != wanted:
            raise InvalidData(f"{present} has shape {given}, config.json says {wanted}", code=code)
