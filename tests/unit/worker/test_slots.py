"""Slots: who holds one, who sees which GPU, and that a slot is free only when its last holder is dead."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.settings import Settings
from core.training.plan import Slot
from worker.slots import Share, Slots, shares


def no_gpus(_library: str) -> Any:
    raise OSError("no such library")


def made(count: int) -> list[Share]:
    slot = Slot(device="cpu", device_name="cpu", threads=1, memory_bytes=1)
    return [Share(slot, {})] * count


def test_slots_are_taken_in_order_and_freed(tmp_path: Path) -> None:
    mine, yours = Slots(tmp_path, made(2)), Slots(tmp_path, made(2))
    assert mine.take() == 0
    assert yours.take() == 1
    assert mine.take() is None
    yours.release(1)
    assert mine.take() == 1
    mine.close()
    assert yours.take() == 0, "what is closed is free"
    yours.close()


def test_a_slot_is_held_until_its_last_holder_is_dead(tmp_path: Path) -> None:
    """The child was started before the lock was taken, as a warm spare is."""
    mine, yours = Slots(tmp_path, made(1)), Slots(tmp_path, made(1))
    child = subprocess.Popen(["sleep", "60"], pass_fds=mine.descriptors)
    assert mine.take() == 0
    mine.close()  # the supervisor dies
    assert yours.take() is None
    child.kill()
    child.wait()
    assert yours.take() == 0
    yours.close()


def test_a_slot_is_left_to_a_child_that_does_not_die(tmp_path: Path) -> None:
    slots = Slots(tmp_path, made(1))
    child = subprocess.Popen(["sleep", "60"], pass_fds=slots.descriptors)
    assert slots.take() == 0
    slots.abandon(0)
    assert slots.take() is None
    child.kill()
    child.wait()
    assert slots.take() == 0
    slots.close()


def test_the_processor_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    found = shares(Settings(slots=2), load=no_gpus)
    assert len(found) == 2
    assert (found[0].slot.device, found[0].slot.threads) == ("cpu", 4)
    assert found[0].slot.memory_bytes == int(0.6 * psutil.virtual_memory().total / 2)
    assert found[0].env == {"CUDA_VISIBLE_DEVICES": ""}
    given = shares(Settings(slots=2, slot_threads=3, slot_memory_bytes=1000), load=no_gpus)[0].slot
    assert (given.threads, given.memory_bytes) == (3, 1000)


class TwoGPUs:
    """NVML as far as it is asked."""

    def __init__(self, _library: str) -> None:
        self.was_shut_down = False

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        self.was_shut_down = True
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = 100 + index.value
        return 0

    def nvmlDeviceGetName(self, _handle: Any, name: Any, _size: Any) -> int:
        name.value = b"NVIDIA H200"
        return 0

    def nvmlDeviceGetUUID(self, handle: Any, uuid: Any, _size: Any) -> int:
        uuid.value = f"GPU-{handle.value}".encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, _handle: Any, memory: Any) -> int:
        memory._obj.total = 141 << 30
        return 0


def test_each_gpu_is_a_slot_that_sees_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    found = shares(Settings(), load=TwoGPUs)
    assert [share.env["CUDA_VISIBLE_DEVICES"] for share in found] == ["GPU-100", "GPU-101"]
    slot = found[0].slot
    assert (slot.device, slot.device_name, slot.threads, slot.memory_bytes) == ("cuda", "NVIDIA H200", 8, 141 << 30)
