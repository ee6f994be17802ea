"""`weightsmith top`: the fleet at a glance, drawn again and again on a terminal."""

import sys
from collections import Counter
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.session import Session, session_of

app = noun()
LOOK_SECONDS = 2.0
SHOWN_STATES = ("running", "stopping", "validating", "queued")


@app.command()
def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show it and leave, also on a terminal.")] = False,
) -> None:
    """Show who works and on what: workers, running jobs with speed and time left, the queue. q leaves.

    \b
    Examples:
      weightsmith top
      weightsmith top --json | jq '.jobs[].id'
    """
    session = session_of(ctx)
    if session.json:
        session.raw({"object": "fleet"} | fleet(session))
    elif once or not (session.console.is_terminal and session.lively and sys.stdin.isatty()):
        for line in lines_of(fleet(session), width=session.console.width if session.console.is_terminal else None):
            typer.echo(line)
    else:
        on_screen(session)


def fleet(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Workers, and the jobs that are not over."""
    jobs = [job for state in SHOWN_STATES for job in session.client.pages("jobs", limit=100, filters={"state": state})]
    return {"workers": session.client.get("workers")["data"], "jobs": jobs}


def lines_of(found: dict[str, list[dict[str, Any]]], *, width: int | None) -> list[str]:
    """Tab-separated for a pipe, in columns for a terminal of that width."""
    from cli.watch import figures, stage

    workers = [["worker", w["kind"], f"{w['host']}:{w['pid']}", w.get("job") or "idle"] for w in found["workers"]]
    jobs = [["job", job["id"], stage(job), figures(job)] for job in found["jobs"]]
    if width is None:
        return ["\t".join(row) for row in (*workers, *jobs)]
    kinds = Counter(worker["kind"] for worker in found["workers"])
    states = Counter(job["state"] for job in found["jobs"])
    head = [" · ".join(f"{number} {name}" for name, number in (*kinds.items(), *states.items())) or "nobody works", ""]
    shown = [f"{kind:<10} {place:<28} {job}" for _, kind, place, job in workers]
    shown += ["", *(f"{id:<29} {stage:<18} {numbers}" for _, id, stage, numbers in jobs)]
    return [line[: width - 1] for line in (*head, *shown)]


def on_screen(session: Session) -> None:
    import time

    from rich.live import Live
    from rich.text import Text

    from cli.keys_pressed import Keys

    next_look = 0.0
    with Keys() as keys, Live(console=session.screen, screen=True, auto_refresh=False) as live:
        while True:
            if time.monotonic() >= next_look:
                lines = lines_of(fleet(session), width=session.screen.width)
                live.update(Text("\n".join(lines[: session.screen.height - 1])), refresh=True)
                next_look = time.monotonic() + LOOK_SECONDS
            if keys.pressed(0.2) == "q":
                return
