"""`weightsmith api`: every address of the service, for what has no command of its own."""

import sys
from typing import Annotated

import typer

from cli.problem import ExitCode, Problem
from cli.session import json_of, noun, session_of

app = noun()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@app.command()
def api(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(help="GET, POST, PUT, PATCH, DELETE.")],
    path: Annotated[str, typer.Argument(help="E.g. /v1/jobs?limit=1")],
    data: Annotated[str | None, typer.Option("--data", "-d", help="JSON, or @FILE, or @- for standard input.")] = None,
) -> None:
    """Call any address of the API and print the answer.

    \b
    Examples:
      weightsmith api GET /v1/catalog
      weightsmith api POST /v1/jobs --data @job.json
    """
    session = session_of(ctx)
    if method.upper() not in METHODS:
        raise Problem(f"no method {method}; there are {', '.join(METHODS)}", exit_code=ExitCode.USAGE)
    body = json_of(data, "--data") if data is not None else None
    with session.client.stream(method.upper(), path if path.startswith("/") else f"/{path}", json=body) as response:
        for block in response.iter_bytes():
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        typer.echo()
