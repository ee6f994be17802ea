"""A small trained tokenizer, and the run directory of a child program."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from core.child import Stop, failure
from core.data.reader import sniff
from core.data.tokenizer import Tokenizer
from core.data.train_tokenizer import learn_bpe
from core.events import Event, parse_event
from core.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[4]
CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"
    "def answer(question):\n    if question:\n        return 42\n    return None\n"
    "春眠不觉晓\n处处闻啼鸟\n夜来风雨声\n花落知多少\n"
)


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    return learn_bpe([CORPUS] * 3, 420, Stop())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str | list[Any]], Path]:
    """Write a file: bytes, text, or rows as JSON lines."""

    def write_file(name: str, content: bytes | str | list[Any]) -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


class Job:
    """A run directory and what its program reports."""

    def __init__(self, path: Path, module: str) -> None:
        self.path, self.module = path, module

    def write(self, spec: dict[str, Any], files: Sequence[Path], **inputs: Any) -> "Job":
        self.path.mkdir(parents=True)
        (self.path / "spec.json").write_text(json.dumps(spec))
        entries = [input_file(path) for path in files]
        (self.path / "inputs.json").write_text(json.dumps({"files": entries, **inputs}, default=str))
        return self

    def start(self, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", self.module, str(self.path)]
        return subprocess.Popen(command, cwd=ROOT, stdin=stdin)

    def run(self) -> int:
        """What `core.child.run` does with the program, in this process: starting one takes a second."""
        run_dir = RunDir(self.path)
        try:
            import_module(self.module).main(run_dir, Stop())
        except Exception as error:
            run_dir.report(failure(error))
            return 1
        return 0

    def events(self) -> list[Event]:
        log = self.path / "events.jsonl"
        return [parse_event(line) for line in log.read_text().splitlines()] if log.exists() else []


def input_file(path: Path) -> dict[str, Any]:
    return {
        "id": f"file-{path.name}",
        "path": str(path),
        "filename": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "format": sniff(path, path.name),
    }


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """A run directory of `module` with its spec and files."""

    def make(module: str, spec: dict[str, Any], files: Sequence[Path], *, name: str = "run", **inputs: Any) -> Job:
        return Job(tmp_path / name, module).write(spec, files, **inputs)

    return make
