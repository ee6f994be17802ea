"""PEFT directories in and out, and a base with its adapter as one model.

See `core.adapters.peft_config` for what is in a directory, `core.adapters.peft_tensors` for its weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.adapters.attach import Attached, attach_to, merge
from core.adapters.peft_config import WEIGHTS, write_adapter_config
from core.adapters.peft_tensors import MAGNITUDE, A, B, LowRank, PeftTensors, written
from core.models.config import Head, ModelConfig
from core.models.directory import CONFIG, read_model_config
from core.models.transformer import Transformer
from core.models.weights import load_model

TASKS: dict[Head, str] = {
    "classifier": "SEQ_CLS",
    "score": "SEQ_CLS",
    "tagger": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "embedding": "FEATURE_EXTRACTION",
}


def save_adapter(adapter: Attached, directory: Path, config: ModelConfig) -> None:
    """Weights (fp32), `adapter_config.json` and `base.json`."""
    assert adapter.base is not None
    layers = {
        name: LowRank(
            _array(layer.lora_A),
            _array(layer.lora_B),
            None if layer.lora_magnitude_vector is None else _array(layer.lora_magnitude_vector),
        )
        for name, layer in adapter.layers.items()
    }
    whole = {name: _array(parameter) for name, parameter in adapter.whole.items()}
    theirs = written(adapter.spec, layers, whole, config)
    modules = theirs.modules | {"task_type": task_type(config)}
    write_adapter_config(directory, adapter.spec, adapter.base, modules=modules)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in theirs.tensors.items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def task_type(config: ModelConfig) -> str | None:
    """PEFT's name of what the model does; it has none for an encoder that predicts hidden tokens."""
    if config.head != "language_model":
        return TASKS[config.head]
    return {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}.get(config.kind)


def load_adapter(adapter: Attached, directory: Path, config: ModelConfig) -> None:
    """Give an attached adapter the weights of a directory; a head that does not fit `config` keeps those that it has.

    Raises:
        InvalidData: the file is not whole, or does not fit the model.
    """
    before = adapter_config(directory) or config
    peft = PeftTensors(directory, before)
    tensors = {name: parameter.detach() for name, parameter in adapter.whole.items()} | _beside(peft)
    if (before.head, before.labels, before.next_sentence) == (config.head, config.labels, config.next_sentence):
        tensors |= {name: _tensor(peft.read_whole(name)) for name in peft.whole}
    adapter.load(tensors)


def adapter_config(directory: Path) -> ModelConfig | None:
    """The model that base and adapter make, where the directory says so."""
    return read_model_config(directory) if (directory / CONFIG).is_file() else None


def load_merged(
    base: Path, adapter: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> Transformer:
    """A whole model that does what the base does with the adapter beside it; every weight can be trained.

    The head is the adapter's, unless `options`, further ones of `load_model`, say otherwise.

    Raises:
        InvalidData: one of them is not whole, or they do not fit each other.
    """
    config = adapter_config(adapter) or read_model_config(base)
    head = {name: getattr(config, name) for name in ("head", "labels", "many_labels", "next_sentence")}
    model = load_model(base, dtype=dtype, device=device, **(head | options))
    attached = attach_to(model, PeftTensors(adapter, config).spec, dtype=dtype)
    load_adapter(attached, adapter, model.config)
    merge(model, dtype=dtype)
    return model


def _beside(peft: PeftTensors) -> dict[str, Tensor]:
    """The low-rank parts, each in aligned memory of its own."""
    tensors: dict[str, Tensor] = {}
    for layer in peft.layers:
        low_rank = peft.low_rank(layer)
        parts = {A: low_rank.a_RI, B: low_rank.b_OR, MAGNITUDE: low_rank.magnitude_O}
        tensors |= {f"{layer}.{part}": _tensor(array) for part, array in parts.items() if array is not None}
    return tensors


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32)).clone()
