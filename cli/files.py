"""`weightsmith files`: the bytes that training reads."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from cli.commands import noun
from cli.completion import complete_files
from cli.problem import ExitCode, Problem
from cli.references import File, file_id
from cli.session import Column, Session, count, printable, session_of, size, when

UPLOAD_BYTES = 256 << 20
"""Larger files travel in parts."""
PART_BYTES = 64 << 20
BAR_BYTES = 4 << 20
"""Smaller files are there before a bar is."""
MAX_FACTS = 12
"""Of classes or tags, the most frequent."""

app = noun()

COLUMNS: dict[str, Column] = {
    "id": lambda file: file["id"],
    "filename": lambda file: file["filename"],
    "size": lambda file: size(file["bytes"]),
    "purpose": lambda file: file["purpose"],
    "status": lambda file: file["status"],
    "created": lambda file: when(file["created_at"]),
}
FIELDS: dict[str, Column] = COLUMNS | {
    "details": lambda file: file.get("status_details"),
    "format": lambda file: file.get("format"),
    "sha256": lambda file: file.get("sha256"),
    "expires": lambda file: when(file["expires_at"]) if file.get("expires_at") else "",
}


@app.command()
def put(
    ctx: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Files to upload.", metavar="FILE...")],
    purpose: Annotated[str, typer.Option(help="As OpenAI calls it.")] = "fine-tune",
) -> None:
    """Upload files; prints the id of each.

    \b
    Examples:
      weightsmith files put plays.txt
      weightsmith files put train.jsonl valid.jsonl.zst -q
    """
    session = session_of(ctx)
    for path in paths:
        file = upload(session, path, purpose=purpose)
        if session.json:
            session.raw(file)
        else:
            typer.echo(file["id"])
            session.say(f"{path.name}: {size(file['bytes']).shown}, {file['status']}")


@app.command()
def ls(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    after: Annotated[str | None, typer.Option(help="Go on behind this id.")] = None,
    purpose: Annotated[str | None, typer.Option(help="Only these.")] = None,
) -> None:
    """List files, newest first.

    \b
    Examples:
      weightsmith files ls
      weightsmith files ls --json | jq '.data[].filename'
    """
    session = session_of(ctx)
    page = session.client.get("files", limit=limit, after=after, purpose=purpose)
    session.listing(page, COLUMNS, empty="no files yet; upload one with `weightsmith files put FILE`")


@app.command()
def show(ctx: typer.Context, file: File) -> None:
    """Show a file and what its check has found.

    \b
    Example:
      weightsmith files show file-abc
    """
    session = session_of(ctx)
    found = session.client.get(f"files/{file_id(session, file)}")
    session.object(found, FIELDS)
    if not session.json and not session.quiet:
        try:
            show_report(session, session.client.get(f"files/{found['id']}/report"))
        except Problem as problem:
            if problem.exit_code is not ExitCode.NOT_FOUND:
                raise


@app.command()
def cat(ctx: typer.Context, file: File) -> None:
    """Write a file's content to standard output.

    \b
    Example:
      weightsmith files cat file-abc | head
    """
    session = session_of(ctx)
    with session.client.stream("GET", f"files/{file_id(session, file)}/content") as response:
        for block in response.iter_bytes():
            sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


@app.command()
def rm(
    ctx: typer.Context,
    files: Annotated[
        list[str], typer.Argument(help="Their ids or names.", metavar="FILE...", autocompletion=complete_files)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete files. One that a job still needs is kept, and you are told which job that is.

    \b
    Example:
      weightsmith files rm file-abc --yes
    """
    session = session_of(ctx)
    for file in [file_id(session, reference) for reference in files]:
        session.confirm(f"Delete {file}?", file, yes=yes)
        deleted = session.client.delete(f"files/{file}")
        if session.json:
            session.raw(deleted)
        else:
            session.say(f"deleted {file}")


@app.command()
def check(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file on this machine.", exists=True, dir_okay=False)],
    format: Annotated[str, typer.Option(help="text, chat, prompt_completion, …")] = "auto",
) -> None:
    """Check a file before uploading it, with the code that training reads it with. Needs no server.

    \b
    Example:
      weightsmith files check train.jsonl
    """
    from core.data.check import check_file
    from core.data.formats import FORMATS
    from core.data.reader import sniff
    from core.errors import CoreError

    session = session_of(ctx)
    if format != "auto" and format not in FORMATS:
        raise Problem(f"no format {format!r}; there are auto, {', '.join(FORMATS)}", exit_code=ExitCode.USAGE)
    try:
        report = check_file(path, path.name, cast(Any, format) if format != "auto" else sniff(path, path.name))
    except CoreError as error:
        raise Problem(error.message, hint=error.hint) from None
    found = report.model_dump(mode="json")
    if session.json:
        session.raw(found)
    else:
        show_report(session, found)
    if report.error() is not None:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def preview(
    ctx: typer.Context,
    file: File,
    model: Annotated[str | None, typer.Option(help="A model, whose tokenizer and chat template are taken.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="In the place of a model: a tokenizer's id, or bytes.")] = None,
    objective: Annotated[str | None, typer.Option(help="Its kind; default: what fits the file.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a training row.")] = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many, from the first.")] = 3,
) -> None:
    """Show a file as training would see it. What is learned is marked: by colour, or by a + in a pipe.

    \b
    Examples:
      weightsmith files preview file-abc --tokenizer bytes
      weightsmith files preview file-abc --model helper -n 1
    """
    session = session_of(ctx)
    if (model is None) == (tokenizer is None):
        raise Problem("give either --model or --tokenizer", exit_code=ExitCode.USAGE)
    named = {"model": model, "tokenizer": tokenizer, "objective": objective and {"kind": objective}}
    body = {name: value for name, value in {**named, "sequence_length": length, "limit": rows}.items() if value}
    found = session.client.post(f"files/{file_id(session, file)}/preview", body)
    if session.json:
        session.raw(found)
        return
    for row in found["rows"]:
        if row["error"]:
            typer.echo(f"line {row['line']}: {row['error']}")
        for example in row["examples"]:
            for sequence in example["sequences"]:
                show_sequence(session, row["line"], sequence)
            show_labels(found["labels"], example["labels"])


def show_sequence(session: Session, line: int, sequence: dict[str, Any]) -> None:
    """Its size, then its text in pieces."""
    cut = ", its end is cut off" if sequence["truncated"] else ""
    session.say(
        f"line {line}, {sequence['name']}: {sequence['num_tokens']} tokens, {sequence['num_learned']} learned{cut}"
    )
    if not session.console.is_terminal:
        for piece in sequence["pieces"]:
            target = f"\t{piece['target']}" if piece["target"] is not None else ""
            typer.echo(f"{'+' if piece['learned'] else ' '} {json.dumps(piece['text'], ensure_ascii=False)}{target}")
        return
    from rich.text import Text

    shown = Text()
    for piece in sequence["pieces"]:
        shown.append(printable(piece["text"]), style="bold green" if piece["learned"] else "dim")
        if piece["target"] is not None:
            shown.append(f"[{piece['target']}]", style="cyan")
    session.console.print(shown)


def show_labels(names: list[str], labels: list[float]) -> None:
    """What is known of the whole example, where something is."""
    if not labels:
        return
    if len(names) == len(labels):
        typer.echo("labels: " + (", ".join(f"{n} {v:g}" for n, v in zip(names, labels, strict=True) if v) or "none"))
    else:
        typer.echo("labels: " + ", ".join(f"{value:g}" for value in labels))


def show_report(session: Session, report: dict[str, Any]) -> None:
    """What a check has found, the bad lines last."""
    facts = {name.replace("_", " "): _fact(value) for name, value in (report.get("facts") or {}).items()}
    session.facts(
        {
            "format": report.get("format"),
            "rows have": report.get("variant"),
            "examples": count(report.get("num_examples")),
            "characters": count(report.get("num_characters")),
            **facts,
            "bad lines": count(report["num_errors"]) if report.get("num_errors") else "none",
        }
    )
    errors = report.get("errors") or []
    for error in errors:
        typer.echo(f"line {error['line']}: {error['message']}")
    if (more := (report.get("num_errors") or 0) - len(errors)) > 0:
        session.say(f"and {more} more")


def _fact(value: Any) -> str:
    """A number, or the first of several by name."""
    if not isinstance(value, dict):
        return _number(value)
    shown = [f"{name} {_number(number)}" for name, number in list(value.items())[:MAX_FACTS]]
    return ", ".join([*shown, *(["…"] if len(value) > MAX_FACTS else [])])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if value >= 1000 else f"{value:.4g}"


def upload(session: Session, path: Path, *, purpose: str = "fine-tune") -> dict[str, Any]:
    """Send a file, with a bar when it takes a while; returns the file object."""
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file, progress_bar(session, path.name, num_bytes) as advance:
            if num_bytes > UPLOAD_BYTES:
                return _in_parts(session, file, path.name, num_bytes, purpose, advance)
            found: dict[str, Any] = session.client.post(
                "files",
                files={"file": (path.name, Watched(file, advance))},
                data={"purpose": purpose},
                timeout=600.0,
            )
            return found
    except OSError as error:
        raise Problem(f"{path}: {error.strerror or error}", hint="look at the path") from None


class Watched:
    """A file that says how much of it has been read."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, num_bytes: int = -1) -> bytes:
        block = self._file.read(num_bytes)
        self._advance(len(block))
        return block

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _in_parts(
    session: Session, file: IO[bytes], name: str, num_bytes: int, purpose: str, advance: Callable[[int], None]
) -> dict[str, Any]:
    client = session.client
    upload = client.post(
        "uploads",
        {"bytes": num_bytes, "filename": name, "mime_type": "application/octet-stream", "purpose": purpose},
    )
    parts = []
    while block := file.read(PART_BYTES):
        part = client.post(f"uploads/{upload['id']}/parts", files={"data": ("part", block)}, timeout=600.0)
        parts.append(part["id"])
        advance(len(block))
    done = client.post(f"uploads/{upload['id']}/complete", {"part_ids": parts}, timeout=600.0)
    found: dict[str, Any] = done["file"]
    return found


@contextmanager
def progress_bar(session: Session, name: str, num_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Yields `advance(num_bytes)`; shows a bar on a terminal when the file is large."""
    if (num_bytes is not None and num_bytes < BAR_BYTES) or not session.lively:
        yield lambda num_bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=session.screen, transient=True) as shown:
        task = shown.add_task(name[:30], total=num_bytes)
        yield lambda num_bytes: shown.advance(task, num_bytes)
