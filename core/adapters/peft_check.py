"""Whether a PEFT directory fits a model, from names and shapes alone. No torch: the api checks what is imported."""

from pathlib import Path

from core.adapters.peft_config import WEIGHTS, read_adapter_config
from core.adapters.spec import LoRA
from core.adapters.targets import layers_named, linear_layers
from core.errors import InvalidData
from core.models.config import ModelConfig
from core.models.tensor_files import TensorFile

PREFIX = "base_model.model."


def fitting(directory: Path, config: ModelConfig) -> LoRA:
    """The adapter's spec, with the layers that it has weights for as targets.

    Raises:
        InvalidData: code `unsupported_adapter` or `corrupt_model`: it does not fit, or is not whole.
    """
    spec = read_adapter_config(directory)
    found = {name.removeprefix(PREFIX): entry.shape for name, entry in TensorFile(directory / WEIGHTS).entries.items()}
    layers = {name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")}
    if not layers:
        raise InvalidData(f"{WEIGHTS} has no LoRA weights", code="unsupported_adapter")
    spec = spec.model_copy(update={"targets": layers_named(layers, config)})
    wanted: dict[str, tuple[int, ...]] = {}
    for name in layers:
        columns, rows = linear_layers(config)[name]
        wanted |= {f"{name}.lora_A.weight": (spec.rank, columns), f"{name}.lora_B.weight": (rows, spec.rank)}
        if spec.decomposed:
            wanted[f"{name}.lora_magnitude_vector"] = (rows,)
    for name in sorted(found.keys() | wanted.keys()):
        if name not in wanted:
            raise InvalidData(
                f"{WEIGHTS} also holds {name}: only low-rank parts of linear layers are available here",
                code="unsupported_adapter",
                hint="An adapter with embeddings or whole layers of its own: merge it in `peft`, import the model.",
            )
        if found.get(name) != wanted[name]:
            raise InvalidData(
                f"{name} has the shape {found.get(name)}, the model and rank {spec.rank} need {wanted[name]}",
                code="unsupported_adapter",
            )
    return spec
