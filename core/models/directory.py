"""A model's directory as text: `config.json` in and out. No torch: the api reads directories with it."""

import json
from pathlib import Path
from typing import Any

from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.families import FAMILIES

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG_BYTES = 1 << 20


def read_model_config(directory: Path) -> ModelConfig:
    """The shapes of the model in `directory`, by the family that its `architectures` names.

    Raises:
        InvalidData: no `config.json`, not JSON, or no family that is known here.
    """
    path = directory / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidData(f"{CONFIG} is larger than {MAX_CONFIG_BYTES} bytes", code="unsupported_model")
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidData(f"the model's directory has no {CONFIG}", code="unsupported_model") from None
    except ValueError as error:
        raise InvalidData(f"{CONFIG} is not JSON: {error}", code="unsupported_model") from error
    named = config.get("architectures") if isinstance(config, dict) else None
    for family in FAMILIES.values():
        if isinstance(named, list) and any(name in family.ARCHITECTURES for name in named):
            shape: ModelConfig = family.read_config(config)
            return shape
    known = ", ".join(next(iter(family.ARCHITECTURES)) for family in FAMILIES.values())
    raise InvalidData(f"architectures {named!r} is not known here; known: {known} and others", code="unsupported_model")


def write_model_config(
    directory: Path, config: ModelConfig, *, pad: int, end_of_text: int, stop_ids: list[int]
) -> None:
    """Write `config.json` and `generation_config.json` as `transformers` expects them.

    An encoder-decoder's decoder begins with `pad`, as T5's and Marian's do.
    """
    ids = {"bos_token_id": None, "eos_token_id": end_of_text, "pad_token_id": pad}
    if config.kind == "encoder_decoder":
        ids["decoder_start_token_id"] = pad
    values = ids | FAMILIES[config.family].write_config(config) | {"torch_dtype": "float32", "dtype": "float32"}
    (directory / CONFIG).write_text(json.dumps(values, indent=2))
    generation = ids | {"eos_token_id": stop_ids}
    (directory / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2))


def weight_files(directory: Path) -> list[Path]:
    """The one file of weights, or its shards.

    Raises:
        InvalidData: there is neither.
    """
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    try:
        index: dict[str, Any] = json.loads((directory / INDEX).read_text())
        names = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InvalidData(f"the directory has neither {WEIGHTS} nor a usable {INDEX}", code="corrupt_model") from error
    if any(Path(name).name != name for name in names):
        raise InvalidData(f"{INDEX} names a file outside the directory", code="corrupt_model")
    return [directory / name for name in names]
