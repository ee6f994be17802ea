"""A child that runs code from strangers and speaks in lines: one to it, one from it, each within a time.

It gets no environment and no descriptors but two pipes, is a session of its own, and is killed as a group. What else it
may do is for the child to give up before it looks at the foreign code.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress


class TooSlow(Exception):
    """No line came within the time."""


class Ended(Exception):
    """The child is gone, or what it sent is no line; the message says how."""


class LineProcess:
    """A Python program and its two pipes."""

    def __init__(
        self, program: Sequence[str], *, max_line_bytes: int = 1 << 28, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment or {}),
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._rest = bytearray()
        self._max_line_bytes = max_line_bytes

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Send one line and wait for one.

        Raises:
            TooSlow: the whole took longer than `seconds`.
            Ended: the child cannot answer any more.
        """
        if self._rest:
            raise Ended("it spoke without being asked")
        deadline = time.monotonic() + seconds
        self._send(line + b"\n", deadline)
        return self._read_line(deadline)

    def read_line(self, seconds: float) -> bytes:
        """One more line of an answer; raises as `ask`."""
        return self._read_line(time.monotonic() + seconds)

    def _send(self, text: bytes, deadline: float) -> None:
        left = memoryview(text)
        with selectors.DefaultSelector() as selector, suppress(BrokenPipeError):  # the missing reply says it
            selector.register(self._in, selectors.EVENT_WRITE)
            while left:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TooSlow
                left = left[os.write(self._in.fileno(), left) :]

    def _read_line(self, deadline: float) -> bytes:
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > self._max_line_bytes:
                raise Ended(f"it sent more than {self._max_line_bytes} bytes")
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise TooSlow
            chunk = os.read(self._out.fileno(), 1 << 20)
            if not chunk:
                raise Ended(self._how())
            self._rest += chunk
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _how(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it left with code {code}"

    def close(self) -> None:
        """Kill it and whatever it started."""
        self._selector.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._in.close()
        self._out.close()
