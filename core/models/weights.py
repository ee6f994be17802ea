"""Weights in and out: Hugging Face directories with safetensors, in one file or in shards. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.errors import InvalidData
from core.models.directory import read_model_config
from core.models.transformer import Decoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 << 20
_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def load_model(
    directory: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", dropout: float = 0.0
) -> Decoder:
    """Read a model; weights are converted to `dtype` one tensor at a time, into memory of their own: the file may go,
    and aligned memory computes the same bits whatever the file's layout.

    Raises:
        InvalidData: a tensor is missing, has another shape than `config.json` says, or a file is not whole.
    """
    config = read_model_config(directory)
    with torch.device("meta"):
        model = Decoder(config, dropout=dropout)
    wanted = dict(model.state_dict())
    if config.tied_embeddings:
        wanted.pop(_OUTPUT)
    found: dict[str, torch.Tensor] = {}
    for path in _files(directory):
        try:
            _check_header(path)
            with safe_open(path, framework="pt", device=device) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    if name in wanted and name not in found:
                        found[name] = file.get_tensor(name).to(dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise InvalidData(f"{path.name} cannot be read: {error}", code="corrupt_model") from error
    for name, meta in wanted.items():
        if name not in found:
            raise InvalidData(f"the weights lack {name}", code="corrupt_model")
        if found[name].shape != meta.shape:
            raise InvalidData(
                f"{name} has shape {list(found[name].shape)}, config.json says {list(meta.shape)}", code="corrupt_model"
            )
    if config.tied_embeddings:
        found[_OUTPUT] = found[_EMBEDDING]
    model.load_state_dict(found, assign=True)
    if config.tied_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def save_weights(model: Decoder, directory: Path) -> None:
    """Write `model.safetensors`; a tied output matrix is stored once."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    if model.config.tied_embeddings:
        tensors.pop(_OUTPUT)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _files(directory: Path) -> list[Path]:
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


def _check_header(path: Path) -> None:
    """Refuse an absurd header before anything is mapped or allocated."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise SafetensorError(f"header of {size} bytes")
