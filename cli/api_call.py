"""`weightsmith api`: every address of the service, for what has no command of its own."""

import sys
from typing import Annotated

import typer

from cli.jobs import read_json
from cli.problem import ExitCode, Problem
from cli.session import noun, session_of

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
    import json

    session = session_of(ctx)
    if method.upper() not in METHODS:
        raise Problem(f"no method {method}; there are {', '.join(METHODS)}", exit_code=ExitCode.USAGE)
    body = None
    if data is not None:
        try:
            body = read_json(data[1:]) if data.startswith("@") else json.loads(data)
        except ValueError as error:
            raise Problem(f"--data is not JSON: {error}", exit_code=ExitCode.USAGE) from None
    with session.client.stream(method.upper(), path if path.startswith("/") else f"/{path}", json=body) as response:
        for block in response.iter_bytes():
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        typer.echo()
