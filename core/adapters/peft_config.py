"""A PEFT directory as text: `adapter_config.json` in and out, and `base.json`, which says what the adapter stands on.

    adapter_config.json         what `peft` reads
    adapter_model.safetensors   the weights (core.adapters.peft_weights)
    base.json                   ours: the base by name and hash, and how its weights were kept while the adapter learned
    tokenizer.json, …           as in a whole model's directory

No torch: the api reads directories with it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from core.adapters.spec import LoRA, Quantization
from core.errors import InvalidData
from core.spec import Spec

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
MAX_CONFIG_BYTES = 1 << 20
Checked = TypeVar("Checked", bound=Spec)
_SAME_COMPUTATION = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "alpha_pattern", "layers_pattern", "layers_to_transform", "modules_to_save", "rank_pattern",
    "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_dora", "use_rslora",
}  # fmt: skip
"""Keys that are read, or change nothing: which layers have weights is seen from the weights."""
_KNOWN_VALUES: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),  # others change the base's weights, too
}


class AdapterBase(Spec):
    """The model that an adapter stands on."""

    model: str
    manifest_sha256: str
    quantization: Quantization = "none"
    double_quantization: bool = True


def is_adapter(directory: Path) -> bool:
    return (directory / CONFIG).is_file()


def write_adapter_config(directory: Path, spec: LoRA, base: AdapterBase, *, modules: Mapping[str, Any]) -> None:
    """`adapter_config.json` and `base.json`. `modules`: what it says of modules and the task."""
    alpha = int(spec.alpha) if spec.alpha.is_integer() else spec.alpha
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base.model,
        "r": spec.rank,
        "lora_alpha": alpha,
        "lora_dropout": spec.dropout,
        "use_rslora": spec.scaling == "rank_stabilized",
        "use_dora": spec.decomposed,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
    }
    (directory / CONFIG).write_text(json.dumps(config | dict(modules), indent=2))
    (directory / BASE).write_text(base.model_dump_json(indent=2))


def read_adapter_config(directory: Path) -> LoRA:
    """The adapter's shape; `targets` stays open, and whole modules are seen from the weights, too.

    Raises:
        InvalidData: code `unsupported_adapter`: not LoRA, or with something that is not computed here.
    """
    config = _read_json(directory / CONFIG)
    if config.get("peft_type") != "LORA":
        raise _unsupported(f"asks for peft_type {config.get('peft_type')!r}; LORA is available")
    for key, value in config.items():
        if key in _SAME_COMPUTATION or not value:
            continue
        if value not in _KNOWN_VALUES.get(key, ()):
            raise _unsupported(f"asks for {key} {value!r}, which is not available here")
    given: dict[str, Any] = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout") or 0.0,
        "scaling": "rank_stabilized" if config.get("use_rslora") else "standard",
        "decomposed": bool(config.get("use_dora")),
    }
    if (directory / BASE).is_file():
        base = _validated(AdapterBase, _read_json(directory / BASE), BASE)
        given |= {"quantization": base.quantization, "double_quantization": base.double_quantization}
    spec = _validated(LoRA, given, CONFIG)
    _check_patterns(spec, config.get("rank_pattern") or {}, config.get("alpha_pattern") or {})
    return spec


def _check_patterns(spec: LoRA, ranks: Any, alphas: Any) -> None:
    """Other ranks and alphas for some modules are those of joined matrices, of which each has the adapter's own."""
    try:
        for module in {*ranks, *alphas}:
            of_joined = spec.model_copy(update={"rank": ranks[module], "alpha": alphas[module]})
            if ranks[module] % spec.rank or not math.isclose(of_joined.factor, spec.factor, rel_tol=1e-6):
                raise ValueError(module)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise _unsupported(f"asks for rank_pattern {ranks} with alpha_pattern {alphas}: one rank for all") from None


def base_named(directory: Path) -> str | None:
    """How the adapter's author calls its base."""
    name = _read_json(directory / CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _unsupported(f"is larger than {MAX_CONFIG_BYTES} bytes", path.name)
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _unsupported("is missing", path.name) from None
    except (ValueError, RecursionError) as error:
        raise _unsupported(f"is not JSON: {error}", path.name) from error
    if not isinstance(value, dict):
        raise _unsupported("holds no object", path.name)
    return value


def _validated(kind: type[Checked], value: dict[str, Any], file: str) -> Checked:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise _unsupported(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", file) from error


def _unsupported(why: str, file: str = CONFIG) -> InvalidData:
    return InvalidData(f"{file} {why}", code="unsupported_adapter")
