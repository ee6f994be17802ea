"""`weightsmith jobs watch` and `wait`: staying with jobs until they are over, and what their end means."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli.problem import ExitCode
from cli.references import Jobs
from cli.session import Session, session_of

Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most.", min=0.0)]
SECOND_CTRL_C_SECONDS = 2.0


def watch(
    ctx: typer.Context,
    jobs: Jobs = None,
    timeout: Timeout = None,
    once: Annotated[bool, typer.Option("--once", help="Say how they stand, and leave.")] = False,
) -> None:
    """Follow jobs to their end; without a name the newest. The exit code is their verdict: 0 succeeded, 3 not.

    On a terminal of 80 x 20 or more it fills the screen: p pauses, c cancels, l shows the log, Tab goes to the next
    job, q leaves. Elsewhere it is a line for each event. Ctrl-C leaves too; the jobs go on.

    \b
    Examples:
      weightsmith jobs watch
      weightsmith jobs watch @running
      weightsmith jobs watch job_abc --timeout 3600 && echo done
      weightsmith jobs watch job_abc --once --json
    """
    from cli.references import job_ids

    session = session_of(ctx)
    found = job_ids(session, jobs or ["@last"])
    raise typer.Exit(look_once(session, found) if once else attend(session, found, timeout=timeout))


def wait(ctx: typer.Context, jobs: Jobs = None, timeout: Timeout = None) -> None:
    """Wait in silence until jobs are over, and print how each ended. The exit code is their verdict.

    \b
    Examples:
      weightsmith jobs wait job_abc job_def && echo both succeeded
      weightsmith jobs wait @running --timeout 600
    """
    from cli.jobs import COLUMNS
    from cli.references import job_ids
    from cli.watch import follow_all

    session = session_of(ctx)
    ids = job_ids(session, jobs or ["@last"])
    silent = Session(quiet=True, base_url=session.base_url, api_key=session.api_key)
    try:
        over = follow_all(silent, ids, timeout=timeout, show_events=False)
    finally:
        silent.close()
    session.listing({"object": "list", "data": over, "has_more": False}, COLUMNS, empty="")
    raise typer.Exit(verdict_of(over))


def attend(session: Session, jobs: Sequence[str], *, timeout: float | None = None) -> ExitCode:
    """Follow jobs and give their verdict; Ctrl-C leaves them alone."""
    from cli.watch import follow_all, verdict

    try:
        over = on_screen(session, jobs, timeout) if session.lively else follow_all(session, jobs, timeout=timeout)
    except KeyboardInterrupt as left:
        return detach(session, jobs, offer=type(left) is KeyboardInterrupt)
    for job in over:
        verdict(session, job)
    return verdict_of(over)


def on_screen(session: Session, jobs: Sequence[str], timeout: float | None) -> list[dict[str, Any]]:
    """The whole terminal where it is large enough; the last curve stays behind."""
    from cli.screen import fits, watch_on_screen
    from cli.watch import follow_all

    if not fits(session):
        return follow_all(session, jobs, timeout=timeout)
    over = watch_on_screen(session, jobs, timeout=timeout)
    if len(over) == 1 and over[0]["kind"] == "train":
        last_curve(session, over[0]["id"])
    return over


def last_curve(session: Session, job: str) -> None:
    from cli.reports import loss_curve, series_of

    series = series_of(session.client.get(f"jobs/{job}/metrics", names="train_loss,validation_loss", max_points=400))
    if series.get("train_loss"):
        utf8 = "utf" in (session.screen.encoding or "").lower()
        session.say(loss_curve(series, width=min(100, session.screen.width - 1), braille=utf8) + "\n")


def detach(session: Session, jobs: Sequence[str], *, offer: bool = True) -> ExitCode:
    """Say that they go on; on a terminal a second Ctrl-C offers to cancel them."""
    names = " ".join(jobs)
    goes = f"{names} goes on" if len(jobs) == 1 else f"{len(jobs)} jobs go on"
    offer = offer and session.lively and sys.stdin.isatty()
    try:
        session.say(f"\n{goes}; look again with `weightsmith jobs watch {names}`")
        if offer:
            session.say("Ctrl-C once more to cancel")
            time.sleep(SECOND_CTRL_C_SECONDS)
    except KeyboardInterrupt:
        if offer and typer.confirm(f"\nCancel {names} for good?", err=True):
            for job in jobs:
                session.client.post(f"jobs/{job}/cancel")
            session.say("cancelled")
    return ExitCode.INTERRUPTED


def look_once(session: Session, jobs: Sequence[str]) -> ExitCode:
    """One line for each job; the verdict of those that are over."""
    from cli.watch import OVER, figures, stage

    found: list[dict[str, Any]] = [session.client.get(f"jobs/{job}") for job in jobs]
    columns = {
        "id": lambda job: job["id"],
        "state": lambda job: job["state"],
        "stage": stage,
        "figures": figures,
    }
    session.listing({"object": "list", "data": found, "has_more": False}, columns, empty="")
    return verdict_of([job for job in found if job["state"] in OVER])


def verdict_of(jobs: Sequence[dict[str, Any]]) -> ExitCode:
    """What the end of several jobs means: all must have succeeded."""
    from cli.watch import OVER

    codes = {OVER[job["state"]] for job in jobs}
    return next((code for code in (ExitCode.JOB_FAILED, ExitCode.WRONG_STATE) if code in codes), ExitCode.DONE)
