"""Slots: the shares of this machine that runs may use, as lock files below the scratch folder.

A pool process opens every lock file once and hands the descriptors to all its children, warm spares included. flock
belongs to the open file, not to the process, so a lock taken later covers them too: a slot is free only when the last
process that holds its file is dead, whoever killed the others.
"""

import ctypes
import fcntl
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from core.settings import Settings
from core.training.plan import Slot

CPU_MEMORY_FRACTION = 0.6
NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Share:
    """A slot of this machine, and the environment that shows a process nothing more than it."""

    slot: Slot
    env: dict[str, str]


def shares(settings: Settings, *, load: Callable[[str], Any] = ctypes.CDLL) -> list[Share]:
    """One for each GPU; without GPUs, `settings.slots` equal parts of the processor. `load` opens NVIDIA's library."""
    return gpu_shares(settings, load) or cpu_shares(settings)


def cpu_shares(settings: Settings) -> list[Share]:
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total
    slot = Slot(
        device="cpu",
        device_name=cpu_name(),
        threads=settings.slot_threads or max(1, cores // settings.slots),
        memory_bytes=settings.slot_memory_bytes or int(CPU_MEMORY_FRACTION * memory / settings.slots),
        has_compiler=has_compiler(),
    )
    return [Share(slot, {"CUDA_VISIBLE_DEVICES": ""})] * settings.slots


def has_compiler() -> bool:
    """What torch needs to compile for this processor: a C++ compiler, and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which("g++") is not None and headers.exists()


def cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or os.uname().machine


def gpu_shares(settings: Settings, load: Callable[[str], Any]) -> list[Share]:
    """NVIDIA's GPUs by NVML, the library behind nvidia-smi: no torch, and no context on the device."""
    try:
        nvml = load(NVML)
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        threads = settings.slot_threads or max(1, (os.cpu_count() or 1) // max(count.value, 1))
        return [_gpu(nvml, index, threads) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _gpu(nvml: Any, index: int, threads: int) -> Share:
    handle, name, uuid, memory = (
        ctypes.c_void_p(),
        ctypes.create_string_buffer(96),
        ctypes.create_string_buffer(96),
        _Memory(),
    )
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
    nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(96))
    nvml.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(96))
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    slot = Slot(device="cuda", device_name=name.value.decode(), threads=threads, memory_bytes=memory.total)
    return Share(slot, {"CUDA_VISIBLE_DEVICES": uuid.value.decode()})


class Slots:
    """The lock files of one pool process."""

    def __init__(self, folder: Path, shares: Sequence[Share]) -> None:
        self.shares = tuple(shares)
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{index}.lock" for index in range(len(self.shares))]
        self._files = [_open(path) for path in self._paths]
        self._taken: set[int] = set()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For every child of this process."""
        return tuple(self._files)

    def take(self) -> int | None:
        """Lock the first free slot; None: all are busy."""
        for index, file in enumerate(self._files):
            if index in self._taken:
                continue  # asking again for one's own lock would succeed
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            self._taken.add(index)
            return index
        return None

    def release(self, index: int) -> None:
        """Unlock. Call only when the child is dead: this frees the slot for everyone who shares the file."""
        fcntl.flock(self._files[index], fcntl.LOCK_UN)
        self._taken.remove(index)

    def abandon(self, index: int) -> None:
        """Leave the lock to a child that cannot be killed: the slot is free when it is gone."""
        os.close(self._files[index])
        self._files[index] = _open(self._paths[index])
        self._taken.remove(index)

    def close(self) -> None:
        for file in self._files:
            os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
