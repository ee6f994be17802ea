"""What a job printed and what happened to it, once or as it comes."""

import time
from typing import Annotated, Any

import typer

from cli.problem import ExitCode
from cli.references import Job
from cli.session import Session, printable, session_of, when
from cli.watch import LOOK_SECONDS, OVER, describe, look, new_events, verdict

ALL_LINES = 100_000


def logs(
    ctx: typer.Context,
    job: Job = "@last",
    tail: Annotated[int, typer.Option("--tail", "-n", help="Lines from the end.", min=1)] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it runs.")] = False,
    grep: Annotated[str | None, typer.Option("--grep", "-g", help="Only lines with this text.")] = None,
) -> None:
    """Show what a job's process printed. With -f the exit code is the job's verdict.

    \b
    Examples:
      weightsmith jobs logs @last --tail 50
      weightsmith jobs logs job_abc -f
      weightsmith jobs logs job_abc --grep error
    """
    from cli.references import job_id

    session = session_of(ctx)
    found = job_id(session, job)
    if follow:
        raise typer.Exit(follow_log(session, found, tail, grep=grep))
    text = log_text(session, found, tail if grep is None else ALL_LINES)
    show_log(session, with_text(text, grep))


def show_log(session: Session, text: str) -> None:
    typer.echo(printable(text) if session.console.is_terminal else text, nl=False)


def with_text(text: str, grep: str | None) -> str:
    """Only the lines that have it, whatever their case."""
    if grep is None:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if grep.lower() in line.lower())


def events(
    ctx: typer.Context,
    job: Job = "@last",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it runs.")] = False,
) -> None:
    """Show what happened to a job, in order. With -f as it happens, with --json one event a line.

    \b
    Examples:
      weightsmith jobs events @last
      weightsmith jobs events job_abc -f --json
    """
    from cli.references import job_id

    session = session_of(ctx)
    found = job_id(session, job)
    if follow:
        raise typer.Exit(follow_events(session, found))
    for event in new_events(session, found, 0):
        show_event(session, event)


def log_text(session: Session, job_id: str, tail: int) -> str:
    """The last lines of a job's log."""
    found = look(session, f"jobs/{job_id}/logs", tail=tail)
    return str(found["text"])


def follow_log(session: Session, job_id: str, tail: int, *, grep: str | None = None) -> ExitCode:
    """Print what is added to the log until the job is over; gives its verdict."""
    printed = ""
    try:
        while True:
            job = look(session, f"jobs/{job_id}")  # before the log: nothing that comes last is missed
            text = log_text(session, job_id, max(tail, 1000))
            fresh = text if not printed else text[_seen(printed, text) :]
            if fresh:
                shown = fresh if printed else "".join(fresh.splitlines(keepends=True)[-tail:])
                show_log(session, with_text(shown, grep))
                printed = text
            if job["state"] in OVER:
                return verdict(session, job)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        session.say(f"\n{job_id} goes on")
        return ExitCode.INTERRUPTED


def _seen(printed: str, text: str) -> int:
    """How much of `text` has been printed. It is a window on the log that moves: its beginning is our end."""
    start = 0
    while not text.startswith(printed[start:]):
        start = printed.find("\n", start) + 1 or len(printed)
    return len(printed) - start


def follow_events(session: Session, job_id: str) -> ExitCode:
    """Print events as they happen until the job is over; gives its verdict."""
    seen = 0
    try:
        while True:
            job: dict[str, Any] = look(session, f"jobs/{job_id}")
            for event in new_events(session, job_id, seen):
                seen = event["seq"]
                show_event(session, event)
            if job["state"] in OVER:
                return verdict(session, job)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        session.say(f"\n{job_id} goes on")
        return ExitCode.INTERRUPTED


def show_event(session: Session, event: dict[str, Any]) -> None:
    if session.json:
        session.line(event)
    elif session.console.is_terminal:
        session.console.print(f"{when(event['created_at']).plain[11:19]}  {describe(event)}")
    else:
        typer.echo(f"{when(event['created_at']).plain}\t{event['kind']}\t{describe(event)}")
