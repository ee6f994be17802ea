"""Weights in and out: Hugging Face directories with safetensors, in one file or in shards. Nothing is unpickled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InvalidData
from core.models.config import Head, ModelConfig
from core.models.directory import INDEX, WEIGHTS, read_model_config, weight_files
from core.models.names import stored_tensors
from core.models.shapes import shapes
from core.models.stored import Stored
from core.models.transformer import Transformer

MAX_HEADER_BYTES = 100 << 20
_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    dropout: float = 0.0,
    head: Head | None = None,
    labels: tuple[str, ...] = (),
    many_labels: bool = False,
    next_sentence: bool = False,
    seed: int = 0,
) -> Transformer:
    """Read a model; weights are converted to `dtype` one tensor at a time, into memory of their own: the file may go,
    and aligned memory computes the same bits whatever the file's layout.

    With a `head` other than the directory's, or with other labels, what the directory lacks of it is drawn from `seed`.
    No labels: those of the directory.

    Raises:
        InvalidData: a tensor is missing, has another shape than `config.json` says, or a file is not whole.
        ValueError: the family has no such head.
    """
    config = found_config = read_model_config(directory)
    if head is not None:
        labels = labels or (config.labels if config.head == head else ())
        config = config.with_head(head, labels=labels, many_labels=many_labels, next_sentence=next_sentence)
    fresh = _fresh_names(config, found_config)
    with torch.device("meta"):
        model = Transformer(config, dropout=dropout)
    found = _read(directory, config, fresh, dtype=dtype, device=device)
    missing = shapes(config).keys() - found.keys()
    if broken := sorted(missing - fresh):
        raise InvalidData(f"the weights lack {stored_tensors(config)[broken[0]].names[0]}", code="corrupt_model")
    found |= {name: torch.empty(shapes(config)[name], dtype=dtype, device=device) for name in missing}
    if config.head == "language_model" and config.tied_embeddings:
        found[_OUTPUT] = found[_EMBEDDING]
    model.load_state_dict(found, assign=True)
    model.tie()
    model.initialise(seed, names=missing)
    return model


def save_weights(model: Transformer, directory: Path, *, max_shard_bytes: int | None = None) -> None:
    """Write `model.safetensors`, or shards and their index where it would be larger than `max_shard_bytes`; a tied
    output matrix is stored once."""
    shards: list[dict[str, Tensor]] = [{}]
    used = total = 0
    for name, tensor in _stored(model):
        if max_shard_bytes is not None and used and used + tensor.nbytes > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used, total = used + tensor.nbytes, total + tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], directory / WEIGHTS, metadata={"format": "pt"})
        return
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": {}}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(shard, file)
    (directory / INDEX).write_text(json.dumps(index, indent=1))


def _fresh_names(config: ModelConfig, found: ModelConfig) -> set[str]:
    """What need not be in the directory, because its model has another head."""
    if (config.head, config.labels, config.next_sentence) == (found.head, found.labels, found.next_sentence):
        return set()
    return {name for name in shapes(config) if name.startswith(("head.", "transform.", "lm_head."))}


def _read(
    directory: Path, config: ModelConfig, fresh: set[str], *, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Our tensors, as far as the files have them."""
    wanted: dict[str, list[tuple[int, str, Stored]]] = {}
    for ours, stored in stored_tensors(config).items():
        if ours in fresh and ours.startswith("head.out"):
            continue  # of that name, but of another head or other labels
        for rank, theirs in enumerate(stored.names):
            wanted.setdefault(theirs, []).append((rank, ours, stored))
    found: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path in weight_files(directory):
        try:
            _check_header(path)
            with safe_open(path, framework="pt", device=device) as file:
                for theirs in file.keys():  # noqa: SIM118 - not a dict
                    for rank, ours, stored in wanted.get(theirs, ()):
                        if rank < ranks.get(ours, len(stored.names)):
                            found[ours] = _own(file.get_tensor(theirs), shapes(config)[ours], stored, theirs, dtype)
                            ranks[ours] = rank
        except (SafetensorError, OSError) as error:
            raise InvalidData(f"{path.name} cannot be read: {error}", code="corrupt_model") from error
    return found


def _own(tensor: Tensor, shape: tuple[int, ...], stored: Stored, name: str, dtype: torch.dtype) -> Tensor:
    """Our part of a tensor of a file, in memory of its own.

    Raises:
        InvalidData: it has another shape.
    """
    part, parts = stored.part
    found = list(tensor.shape)
    if stored.has_leading_one and tensor.dim() == len(shape) + 1:
        tensor = tensor[0]
    if stored.transposed and tensor.dim() == 2:
        tensor = tensor.T
    if tensor.shape != (shape[0] * parts, *shape[1:]):
        raise InvalidData(f"{name} has shape {found}, config.json says {list(shape)}", code="corrupt_model")
    mine = tensor[part * shape[0] : (part + 1) * shape[0]]
    return mine.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _stored(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as a file has them: parts are joined."""
    parts: dict[str, list[Tensor]] = {}
    tensors = dict(model.named_parameters())
    for ours, stored in stored_tensors(model.config).items():
        theirs = stored.names[0]
        parts.setdefault(theirs, []).append(tensors[ours].detach().cpu())
        if len(parts[theirs]) == stored.part[1]:
            tensor = torch.cat(parts.pop(theirs)) if stored.part[1] > 1 else parts.pop(theirs)[0]
            tensor = tensor.T if stored.transposed else tensor
            yield theirs, (tensor[None] if stored.has_leading_one else tensor).contiguous()


def _check_header(path: Path) -> None:
    """Refuse an absurd header before anything is mapped or allocated."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise SafetensorError(f"header of {size} bytes")
