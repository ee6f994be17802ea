"""`weightsmith workers`: who works for this service now."""

import typer

from cli.commands import noun
from cli.session import Column, session_of, when

app = noun()

COLUMNS: dict[str, Column] = {
    "kind": lambda worker: worker["kind"],
    "host": lambda worker: worker["host"],
    "pid": lambda worker: str(worker["pid"]),
    "job": lambda worker: worker.get("job") or worker.get("job_id"),
    "seen": lambda worker: when(worker["heartbeat_at"]),
    "id": lambda worker: worker["id"],
}


@app.command()
def workers(ctx: typer.Context) -> None:
    """List the processes that work for this service now.

    \b
    Example:
      weightsmith workers
    """
    session = session_of(ctx)
    session.listing(session.client.get("workers"), COLUMNS, empty="nobody works; `weightsmith up` starts workers")
