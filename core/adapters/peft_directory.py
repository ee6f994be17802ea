"""PEFT directories in and out, and a base with its adapter as one model.

Weights lie in `adapter_model.safetensors` under the names that `peft` gives them; see `core.adapters.peft_config` for
what else is in the directory.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.attach import Attached, attach_to, merge
from core.adapters.peft_config import WEIGHTS, read_adapter_config, write_adapter_config
from core.adapters.targets import layers_named
from core.errors import InvalidData
from core.models.transformer import Transformer
from core.models.weights import load_model

PREFIX, MATRIX = "base_model.model.", ".weight"
_VECTOR = "lora_magnitude_vector"


def save_adapter(adapter: Attached, directory: Path, *, task_type: str) -> None:
    """Everything but the tokenizer, fp32."""
    assert adapter.base is not None
    write_adapter_config(directory, adapter.spec, adapter.base, task_type=task_type)
    tensors = {_peft_name(name): tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors().items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def load_adapter_weights(directory: Path) -> dict[str, Tensor]:
    """Tensors by layer and parameter, fp32, each in aligned memory of its own.

    Raises:
        InvalidData: the file is not whole.
    """
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InvalidData(f"{WEIGHTS} cannot be read: {error}", code="corrupt_model") from error
    return {_own_name(name): tensor.float().clone() for name, tensor in tensors.items()}


def load_merged(
    base: Path, adapter: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> Transformer:
    """A whole model that does what the base does with the adapter beside it; every weight can be trained. `options`:
    further ones of `load_model`.

    Raises:
        InvalidData: one of them is not whole, or they do not fit each other.
    """
    model = load_model(base, dtype=dtype, device=device, **options)
    tensors = load_adapter_weights(adapter)
    layers = {name.rpartition(".")[0] for name in tensors}
    spec = read_adapter_config(adapter)
    spec = spec.model_copy(update={"targets": layers_named(layers, model.config)})
    attach_to(model, spec, dtype=dtype).load(tensors)
    merge(model, dtype=dtype)
    return model


def _peft_name(name: str) -> str:
    """Of `layer.parameter`."""
    return f"{PREFIX}{name}" if name.endswith(_VECTOR) else f"{PREFIX}{name}{MATRIX}"


def _own_name(name: str) -> str:
    """`layer.parameter` from the name in the file."""
    return name.removeprefix(PREFIX).removesuffix(MATRIX)
