"""Checkpoints: `model/` (a Hugging Face directory), `state/` (optimizer, random numbers, loop) and `manifest.json`.

Saving: everything into a temporary directory, each file synced, the manifest last, then one rename and a sync of the
parent: a checkpoint is whole or not there. Loading verifies sizes and hashes first. Nothing is ever unpickled.

The weights in `model/` are the fp32 masters, so that they are also the weights from which a run resumes.
"""

import errno
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core.data.tokenizer import Tokenizer
from core.errors import CoreError, StorageFull
from core.models.directory import write_model_config
from core.models.manifest import MANIFEST, sha256_of, sync, write_manifest
from core.models.transformer import Decoder
from core.models.weights import save_weights


class CorruptCheckpoint(CoreError):
    """A file is missing, truncated or altered: fall back to the checkpoint before it."""

    retryable = True
    default_code = "checkpoint_corrupt"


@dataclass
class Progress:
    """Where a run stands: all that the loop remembers besides tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """of the newest evaluation"""
    best: float | None = None
    """best value of the watched metric so far, signed so that more is better"""
    evaluations_without_improvement: int = 0
    skipped_steps: list[int] = field(default_factory=list)
    """recent steps whose update was not taken because a number was not finite"""


@dataclass(frozen=True)
class SavedCheckpoint:
    path: Path
    manifest_sha256: str
    size_bytes: int


def save(
    path: Path,
    *,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    progress: Progress,
) -> SavedCheckpoint:
    """Write a checkpoint to `path`; replaces nothing.

    Raises:
        StorageFull: no space; nothing of the attempt is left behind.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "model").mkdir(parents=True)
        (partial / "state").mkdir()
        save_weights(model, partial / "model")
        stops = sorted(tokenizer.stop_ids)
        write_model_config(
            partial / "model", model.config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops
        )
        tokenizer.save(partial / "model")
        save_file(_moments(model, optimizer), partial / "state" / "optimizer.safetensors")
        save_file(_random_states(model), partial / "state" / "random.safetensors")
        (partial / "state" / "progress.json").write_text(json.dumps(asdict(progress)))
        manifest_sha256, size = write_manifest(partial, step=progress.step)
        partial.rename(path)
        sync(path.parent)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors reports a full disk as an error of its own.
        if _is_full_disk(error):
            raise StorageFull("The disk is full: the checkpoint could not be written.") from error
        raise
    return SavedCheckpoint(path, manifest_sha256, size)


def load(path: Path, *, model: Decoder, optimizer: torch.optim.Optimizer) -> Progress:
    """Put optimizer and random states back, after `verify`; the caller has read `model` from `path / "model"`."""
    moments = load_file(path / "state" / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: moments[f"{name}/{key}"].to(parameter.device if key != "step" else "cpu")
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    random = load_file(path / "state" / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return Progress(**json.loads((path / "state" / "progress.json").read_text()))


def verify(path: Path, *, manifest_sha256: str | None, below: str = "") -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, and the manifest against the hash that was recorded.

    `below`: only files whose name begins so (`model/` for who only serves it).

    Raises:
        CorruptCheckpoint: names the first file that differs.
    """
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise CorruptCheckpoint(f"{path.name}: {MANIFEST} cannot be read: {error.strerror}") from error
    if manifest_sha256 is not None and hashlib.sha256(text).hexdigest() != manifest_sha256:
        raise CorruptCheckpoint(f"{path.name}: {MANIFEST} is not the one that was recorded")
    manifest: dict[str, Any] = json.loads(text)
    for entry in manifest["files"]:
        file = path / entry["name"]
        if not entry["name"].startswith(below):
            continue
        if not file.is_file() or file.stat().st_size != entry["bytes"] or sha256_of(file) != entry["sha256"]:
            raise CorruptCheckpoint(f"{path.name}: {entry['name']} is missing, truncated or altered")
    return manifest


def weights_sha256(path: Path) -> str:
    """Hash of all weights of a model's directory, independent of how the file lays them out."""
    digest = hashlib.sha256()
    with safe_open(path / "model.safetensors", framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest.update(name.encode() + str(tensor.dtype).encode() + str(list(tensor.shape)).encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _moments(model: Decoder, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _random_states(model: Decoder) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if model.lm_head.weight.is_cuda:
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
