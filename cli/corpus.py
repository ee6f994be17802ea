"""Text for the demo: Python's own library, or what the user points at; and conversations made from the same text."""

import ast
import hashlib
import json
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.problem import ExitCode, Problem

MIN_BYTES = 50_000
MIN_PAIRS = 20
PIECE_CHARACTERS = 8_000
SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "encodings", "pydoc_data", "lib2to3"}
)
TEXT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".py", ".tex", ".html", ".c", ".h", ".js", ".ts", ".go", ".rs", ".java"}
)


@dataclass(frozen=True)
class Corpus:
    """Documents and what they are."""

    name: str
    documents: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """question and answer"""
    prompt: str
    """something to go on from"""

    @property
    def num_bytes(self) -> int:
        return sum(len(document.encode()) for document in self.documents)


def standard_library(*, max_bytes: int, max_pairs: int) -> Corpus:
    """The source of Python's standard library, a document for each file, always the same choice."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts)]
    # By hash: a fair mix that does not depend on the order of the file system.
    files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    documents = tuple(_up_to(_texts(files), max_bytes))
    return Corpus("python", documents, _some(_docstring_pairs(documents), max_pairs), prompt="def ")


def from_path(path: Path, *, max_bytes: int, max_pairs: int) -> Corpus:
    """A file of text, a JSONL file with `text`, or a folder of text files.

    Raises:
        Problem: there is nothing to read, or too little to learn from.
    """
    if not path.exists():
        raise Problem(
            f"{path}: there is nothing", exit_code=ExitCode.USAGE, hint="give a text file or a folder of them"
        )
    files = (
        sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
        if path.is_dir()
        else [path]
    )
    python = [file for file in files if file.suffix == ".py"]
    documents = tuple(_up_to(_documents(files), max_bytes))
    found = sum(len(document.encode()) for document in documents)
    if found < MIN_BYTES:
        raise Problem(
            f"{path}: {found:,} bytes of text; the demo needs at least {MIN_BYTES:,} to have something to learn",
            exit_code=ExitCode.USAGE,
            hint=f"a folder is searched for {', '.join(sorted(TEXT_SUFFIXES))}",
        )
    pairs = _some(_docstring_pairs(_texts(python)), max_pairs)
    if len(pairs) < MIN_PAIRS:
        pairs = _some(_paragraph_pairs(documents), max_pairs)
    return Corpus(fit_for_name(path), documents, pairs, prompt=" ".join(documents[0].split()[:4]))


def fit_for_name(path: Path) -> str:
    """A file's name as a part of a model's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", path.resolve().stem).strip("-.")[:40] or "text"


def as_jsonl(corpus: Corpus) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in corpus.documents)


def chats_as_jsonl(corpus: Corpus) -> bytes:
    """The pairs as OpenAI's fine-tuning takes them."""
    rows = (
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in corpus.pairs
    )
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _texts(files: list[Path]) -> Iterator[str]:
    """What can be read as UTF-8 text."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip() and "\x00" not in text:
            yield text


def _documents(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.suffix in (".jsonl", ".ndjson"):
            yield from _jsonl_texts(file)
        else:
            for text in _texts([file]):
                yield from [text] if file.suffix == ".py" else _pieces(text)


def _jsonl_texts(file: Path) -> Iterator[str]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise Problem(
                f"{file} line {number} is no object with a `text`",
                exit_code=ExitCode.USAGE,
                hint=f"`weightsmith files check {file}` looks at every line",
            ) from None
        if isinstance(text, str) and text.strip():
            yield text


def _pieces(text: str) -> Iterator[str]:
    """Whole paragraphs, a few thousand characters together."""
    piece: list[str] = []
    length = 0
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        piece.append(paragraph)
        length += len(paragraph)
        if length >= PIECE_CHARACTERS:
            yield "\n\n".join(piece)
            piece, length = [], 0
    if "".join(piece).strip():
        yield "\n\n".join(piece)


def _up_to(texts: Iterator[str], max_bytes: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        taken += len(text.encode())
        if taken > max_bytes:
            return
        yield text


def _docstring_pairs(sources: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The head of a function and the first paragraph of what its docstring says."""
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
                summary = " ".join(text.split("\n\n")[0].split())
                head = f"def {node.name}({ast.unparse(node.args)})"
                if 20 <= len(summary) <= 200 and len(head) <= 120:
                    yield f"What does this function do?\n{head}", summary


def _paragraph_pairs(documents: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The beginning of a paragraph and how it goes on."""
    for document in documents:
        for paragraph in document.split("\n\n"):
            words = paragraph.split()
            if 12 <= len(words) <= 80:
                cut = len(words) // 3
                yield f"How does this go on?\n{' '.join(words[:cut])}", " ".join(words[cut:])


def _some(pairs: Iterable[tuple[str, str]], at_most: int) -> tuple[tuple[str, str], ...]:
    """Always the same choice among equal pairs."""
    unique = list(dict.fromkeys(pairs))
    return tuple(random.Random(7).sample(unique, min(len(unique), at_most)))
