"""Single keys from a terminal, without waiting for Enter."""

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any

ARROWS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}


class Keys:
    """While it lasts, keys arrive at once and are not echoed; afterwards the terminal is as it was."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno()
        self._before: list[Any] = []
        self._read = b""

    def __enter__(self) -> "Keys":
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def pressed(self, timeout: float) -> str | None:
        """The next key, or None when none was pressed within `timeout` seconds."""
        if not self._read:
            if not select.select([self._file], [], [], timeout)[0]:
                return None
            self._read = os.read(self._file, 64)
            if not self._read:  # the terminal is gone
                raise EOFError
        length = 3 if self._read[:3] in ARROWS else 1  # whoever types fast is read in one go
        key, self._read = self._read[:length], self._read[length:]
        return ARROWS.get(key, key.decode(errors="replace"))
