"""`weightsmith api`: every address of the service, for what has no command of its own."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.session import json_of, read_json, session_of

app = noun()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@app.command()
def api(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(help="GET, POST, PUT, PATCH, DELETE.")],
    path: Annotated[str, typer.Argument(help="E.g. /v1/jobs?limit=1")],
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            "-f",
            help="NAME=VALUE of the body; a.b=1 goes deeper, JSON is read as JSON. With GET: of the query. "
            "NAME=@FILE sends a file as a form does.",
        ),
    ] = None,
    input: Annotated[str | None, typer.Option("--input", help="The body: a file, or - for standard input.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body: JSON, or @FILE, or @-.")] = None,
) -> None:
    """Call any address of the API and print the answer, as it comes.

    \b
    Examples:
      weightsmith api GET /v1/catalog
      weightsmith api GET /v1/jobs -f state=running -f limit=5
      weightsmith api POST /v1/tokenize -f model=plays -f prompt="To be"
      weightsmith api POST /v1/jobs --input job.json
      weightsmith api POST /v1/files -f purpose=fine-tune -f file=@a.jsonl
    """
    session = session_of(ctx)
    if method.upper() not in METHODS:
        raise Problem(f"no method {method}; there are {', '.join(METHODS)}", exit_code=ExitCode.USAGE)
    if sum(given is not None for given in (field or None, input, data)) > 1:
        raise Problem("give the body by -f, by --input or by --data, not by two", exit_code=ExitCode.USAGE)
    with ExitStack() as opened:
        body = _body(method.upper(), _fields(field or []), opened)
        if input is not None or data is not None:
            body = {"json": read_json(input) if input is not None else json_of(data or "", "--data")}
        address = path if path.startswith("/") else f"/{path}"
        response = opened.enter_context(session.client.stream(method.upper(), address, **body))
        for block in response.iter_bytes():
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        typer.echo()


def _fields(words: list[str]) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    if wrong := next((name for name, equals, _ in pairs if not (name and equals)), None):
        raise Problem(f"-f {wrong}: it takes NAME=VALUE", exit_code=ExitCode.USAGE)
    return [(name, value) for name, _, value in pairs]


def _body(method: str, fields: list[tuple[str, str]], opened: ExitStack) -> dict[str, Any]:
    """What the fields mean to httpx: a query, a form with files, or JSON."""
    if not fields:
        return {}
    if method == "GET":
        return {"params": dict(fields)}
    files = {name: Path(value[1:]) for name, value in fields if value.startswith("@")}
    if files:
        if missing := next((path for path in files.values() if not path.is_file()), None):
            raise Problem(f"{missing}: no such file", exit_code=ExitCode.USAGE)
        sent = {name: (path.name, opened.enter_context(path.open("rb"))) for name, path in files.items()}
        return {"files": sent, "data": {name: value for name, value in fields if name not in files}}
    body: dict[str, Any] = {}
    for name, value in fields:
        *outer, last = name.split(".")
        place = body
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise Problem(f"-f {name}: {part} has a value already", exit_code=ExitCode.USAGE)
        place[last] = _value(value)
    return {"json": body}


def _value(text: str) -> Any:
    """JSON where it is some, else the text."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
