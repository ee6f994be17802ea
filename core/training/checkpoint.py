"""Checkpoints: `model/` (a Hugging Face or PEFT directory), `state/` (optimizer, random numbers, loop), a manifest.

Saving: everything into a temporary directory, each file synced, the manifest last, then one rename and a sync of the
parent: a checkpoint is whole or not there. Loading verifies sizes and hashes first. Nothing is ever unpickled.

The weights in `model/` are the fp32 masters, so that they are also the weights from which a run resumes; where a run
averages its weights, `model/` is the average, and those that are trained lie in `state/` too.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core.adapters.attach import Attached
from core.adapters.peft_config import WEIGHTS as ADAPTER_WEIGHTS
from core.adapters.peft_config import is_adapter
from core.adapters.peft_directory import save_adapter
from core.data.tokenizer import Tokenizer
from core.errors import CoreError, StorageFull
from core.models.directory import write_model_config
from core.models.manifest import MANIFEST, sha256_of, sync, write_manifest
from core.models.transformer import Transformer
from core.models.weights import save_weights
from core.training import random_state
from core.training.averaging import Average

STATE = "state"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CorruptCheckpoint(CoreError):
    """A file is missing, truncated or altered: fall back to the checkpoint before it."""

    retryable = True
    default_code = "checkpoint_corrupt"


@dataclass
class Progress:
    """Where a run stands: all that the loop remembers besides tensors."""

    micro_batch: int
    """the plan's, until memory runs out"""
    recomputes: bool = False
    """activations, as the spec says; or because memory ran out"""
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """wall time of the loop, evaluations and checkpoints included"""
    evaluated_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """of the newest evaluation"""
    best: float | None = None
    """best value of the watched metric so far, signed so that more is better"""
    evaluations_without_improvement: int = 0
    skipped_steps: list[int] = field(default_factory=list)
    """recent steps whose update was not taken because a number was not finite"""
    failed_saves: int = 0
    """in a row"""


@dataclass(frozen=True)
class SavedCheckpoint:
    path: Path
    manifest_sha256: str
    size_bytes: int


def save(
    path: Path,
    *,
    model: Transformer,
    adapter: Attached | None = None,
    average: Average | None = None,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    progress: Progress,
    made_with: Mapping[str, str | int],
) -> SavedCheckpoint:
    """Write a checkpoint. What lay at `path` before (a run repeated by hand) is replaced once the new one is whole.

    Raises:
        StorageFull: no space; nothing of the attempt is left behind.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with average.in_place() if average else nullcontext():
            write_model(partial / "model", model, tokenizer, adapter)
        write_state(partial / STATE, model, average, optimizer, progress, made_with)
        manifest_sha256, size_bytes = write_manifest(partial, step=progress.step)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        sync(path.parent)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_full_disk(error):
            raise StorageFull("The disk is full: the checkpoint could not be written.") from error
        raise
    return SavedCheckpoint(path, manifest_sha256, size_bytes)


def write_model(directory: Path, model: Transformer, tokenizer: Tokenizer, adapter: Attached | None = None) -> None:
    """All that `transformers` and our generator need, tokenizer and chat template included; of a model with an adapter
    only that, as `peft` has it.
    """
    directory.mkdir(parents=True)
    tokenizer.save(directory)
    if adapter is None:
        save_weights(model, directory)
    else:
        save_adapter(adapter, directory, model.config)
    write_model_config(
        directory,
        model.config,
        pad=tokenizer.pad,
        end_of_text=tokenizer.end_of_text,
        stop_ids=sorted(tokenizer.stop_ids),
    )


def write_state(
    directory: Path,
    model: Transformer,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    made_with: Mapping[str, str | int],
) -> None:
    """All else that the next step depends on."""
    directory.mkdir()
    moments = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, directory / "optimizer.safetensors")
    if average is not None:
        trained = {name: value.cpu().contiguous() for name, value in average.state().items()}
        save_file(trained, directory / "weights.safetensors")
    save_file(random_state.read(), directory / "random.safetensors")
    (directory / "progress.json").write_text(json.dumps(asdict(progress), indent=1))
    (directory / "made_with.json").write_text(json.dumps(dict(made_with), indent=1))


def load(
    path: Path, *, model: Transformer, average: Average | None = None, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, str | int]]:
    """Put optimizer and random states back, after `verify`; the caller has read `model` from `path / "model"`.

    Returns the progress, and what the checkpoint was made with.
    """
    state = path / STATE
    names = dict(model.named_parameters())
    fused = {parameter for group in optimizer.param_groups if group.get("fused") for parameter in group["params"]}
    for entry, value in load_file(state / "optimizer.safetensors").items():
        name, _, key = entry.rpartition("/")
        parameter = names[name]
        device = "cpu" if key == "step" and parameter not in fused else parameter.device
        # A copy of its own: what the file gives lies unaligned, and alignment may touch the last bit.
        optimizer.state[parameter][key] = value.clone().to(device)
    if average is not None:
        average.resume(load_file(state / "weights.safetensors"))
    random_state.restore(load_file(state / "random.safetensors"))
    progress = Progress(**json.loads((state / "progress.json").read_text()))
    made_with: dict[str, str | int] = json.loads((state / "made_with.json").read_text())
    return progress, made_with


def verify(path: Path, *, manifest_sha256: str | None, below: str = "") -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, and the manifest against the hash that was recorded.

    `below`: only files whose name begins so (`model/` for who only serves it).

    Raises:
        CorruptCheckpoint: names the first file that differs.
    """
    try:
        text = (path / MANIFEST).read_bytes()
        if manifest_sha256 is not None and hashlib.sha256(text).hexdigest() != manifest_sha256:
            raise CorruptCheckpoint(f"{path.name}: {MANIFEST} is not the one that was recorded")
        manifest: dict[str, Any] = json.loads(text)
        entries = [(entry["name"], entry["bytes"], entry["sha256"]) for entry in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{path.name}: {MANIFEST} cannot be read: {error}") from error
    for name, size, sha256 in entries:
        file = path / name
        if not name.startswith(below):
            continue
        if not file.is_file() or file.stat().st_size != size or sha256_of(file) != sha256:
            raise CorruptCheckpoint(f"{path.name}: {name} is missing, truncated or altered")
    return manifest


def weights_sha256(directory: Path) -> str:
    """Hash of all weights of a model's or adapter's directory, independent of how the file lays them out."""
    digest = hashlib.sha256()
    name = ADAPTER_WEIGHTS if is_adapter(directory) else "model.safetensors"
    with safe_open(directory / name, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest.update(name.encode() + str(tensor.dtype).encode() + str(list(tensor.shape)).encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_full_disk(error: BaseException) -> bool:
    """Also where safetensors reports it, which knows only a text."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    return any(f"os error {number})" in str(error) for number in _NO_SPACE)
