"""safetensors files read with nothing but numpy, also where there is no torch (https://github.com/huggingface/safetensors)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidData

MAX_HEADER_BYTES = 100 << 20
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """of its bytes, from the file's start"""
    end: int


class TensorFile:
    """A file's header, and its tensors on demand."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidData: code `corrupt_model`: it has no header that can be read, or was cut off.
        """
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                    raise ValueError(f"a header of {length} bytes")
                header: dict[str, Any] = json.loads(file.read(length))
            start = 8 + length
            self.entries = {
                name: Entry(
                    str(e["dtype"]), tuple(map(int, e["shape"])), *(start + int(at) for at in e["data_offsets"])
                )
                for name, e in header.items()
                if name != "__metadata__"
            }
            if any(entry.end > size for entry in self.entries.values()):
                raise ValueError("it was cut off")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidData(f"{path.name} cannot be read: {error}", code="corrupt_model") from error

    def bytes_of(self, name: str) -> memoryview:
        """A tensor's bytes as they lie in the file."""
        entry = self.entries[name]
        if entry.begin == entry.end:
            return memoryview(b"")
        return np.memmap(self.path, np.uint8, "r", entry.begin, (entry.end - entry.begin,)).data

    def read(self, name: str) -> Array:
        """A tensor in fp32.

        Raises:
            InvalidData: it is of a kind that no weights have.
        """
        entry, raw = self.entries[name], np.frombuffer(self.bytes_of(name), np.uint8)
        match entry.dtype:
            case "F32":
                values = raw.view(np.float32)
            case "F16":
                values = raw.view(np.float16).astype(np.float32)
            case "BF16":
                values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            case kind:
                raise InvalidData(f"{name} in {self.path.name} is of dtype {kind}", code="corrupt_model")
        return values.reshape(entry.shape)
