"""`Sandbox`: where python graders run. One child for each source, which grades many samples; a child that hangs or dies
is replaced.

What a child may not do is written in `core/graders/sandbox_child.py`. It starts with no environment, no descriptor but
its two pipes, and in a session of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.graders.grade import ErrorName, Item, Sample, Ungradable
from core.line_process import Ended, LineProcess, TooSlow
from core.spec import Spec

CHILD = Path(__file__).with_name("sandbox_child.py")
SECONDS_TO_START = 60.0
SECONDS_TO_LOAD = 30.0
"""the source's own imports are most of it"""
SECONDS_A_SAMPLE = 10.0
MAX_REPLY_BYTES = 1 << 16
MAX_CPU_SECONDS = 1800.0
"""after which a child is replaced; the kernel ends it at twice that"""
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # sets iterate in the same order every time
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
PROGRAM = ("-s", "-P", "-B", "-X", "utf8", str(CHILD))

RUNTIME: ErrorName = "python_grader_runtime_error"


class Reply(Spec):
    """Of the child, in which the foreign code could write what it likes."""

    cpu_seconds: float
    score: float | None = None
    error: str = ""


class Sandbox:
    """A context manager; for one thread, which must outlive it: the kernel ends a child with the thread that made it.
    Children start when they are first needed."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for child in self._children.values():
            child.close()
        self._children.clear()

    def run(self, source: str, sample: Sample, item: Item) -> float:
        """What `grade(sample, item)` of the source returns.

        Raises:
            Ungradable: it raised, took too long or too much, or returned no finite number.
        """
        child = self._children.get(source)
        if child is None:
            child = self._children[source] = _Child(source)
        try:
            return child.grade(sample, item)
        except Ungradable:
            if child.is_over:
                self._children.pop(source).close()
            raise
        finally:
            if child.cpu_seconds > MAX_CPU_SECONDS:
                self._children.pop(source, child).close()


class _Child:
    def __init__(self, source: str) -> None:
        self.is_over = False
        self.cpu_seconds = 0.0
        self._load_error = ""
        self._process = LineProcess(PROGRAM, max_line_bytes=MAX_REPLY_BYTES, environment=ENVIRONMENT)
        try:
            self._start(source)
        except Ungradable:
            self._process.close()
            raise

    def _start(self, source: str) -> None:
        try:
            ready = json.loads(self._process.read_line(SECONDS_TO_START))
        except (TooSlow, Ended) as failure:
            raise Ungradable("python_grader_server_error", f"the sandbox did not start: {failure}") from None
        if "refused" in ready:
            raise Ungradable("python_grader_server_error", f"this machine has no sandbox: {ready['refused']}")
        self._load_error = self._ask({"source": source}, SECONDS_TO_LOAD, doing="loading the source").error

    def grade(self, sample: Sample, item: Item) -> float:
        if self._load_error:
            raise Ungradable(RUNTIME, self._load_error)
        request = {"sample": _as_dict(sample), "item": dict(item)}
        reply = self._ask(request, SECONDS_A_SAMPLE, doing="grade(sample, item)")
        if reply.score is None:
            raise Ungradable(RUNTIME, reply.error)
        return reply.score

    def _ask(self, request: Mapping[str, Any], seconds: float, *, doing: str) -> Reply:
        """
        Raises:
            Ungradable: there is no reply, and the child is of no use any more.
        """
        try:
            reply = Reply.model_validate_json(self._process.ask(json.dumps(request).encode(), seconds))
        except TooSlow:
            self.is_over = True
            raise Ungradable(RUNTIME, f"{doing} took longer than {seconds:g} seconds") from None
        except Ended as failure:
            self.is_over = True
            raise Ungradable(RUNTIME, f"{doing} ended its process ({failure}): too much memory, or it left") from None
        except ValidationError:
            self.is_over = True
            raise Ungradable(RUNTIME, f"{doing} wrote into the sandbox's own pipe") from None
        self.cpu_seconds = reply.cpu_seconds
        return reply

    def close(self) -> None:
        self._process.close()


def _as_dict(sample: Sample) -> dict[str, Any]:
    try:
        return {"output_text": sample.output_text, "output_json": sample.output_json}
    except ValueError:
        return {"output_text": sample.output_text, "output_json": None}
