"""`weightsmith jobs`: what trains, from the first look at its data to the model it leaves."""

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.problem import ExitCode, Problem
from cli.session import Cell, Column, Session, count, duration, json_of, noun, read_json, session_of, when

app = noun()

Job = Annotated[str, typer.Argument(help="Its id, the beginning of it, @last or @running.", metavar="JOB")]
ID_LENGTH = 28


def _made(job: Mapping[str, Any]) -> str:
    result = job.get("result") or {}
    return str(result.get("model") or result.get("tokenizer") or "")


def _progress(job: Mapping[str, Any]) -> str:
    progress = job.get("progress") or {}
    return f"{100 * (progress.get('fraction') or 0):.0f}%" if job["state"] != "queued" else ""


def _error(job: Mapping[str, Any]) -> str:
    error = job.get("error")
    return "\n".join(part for part in (error["message"], error.get("hint")) if part) if error else ""


COLUMNS: dict[str, Column] = {
    "id": lambda job: job["id"],
    "kind": lambda job: job["kind"],
    "state": lambda job: job["state"],
    "done": _progress,
    "result": _made,
    "created": lambda job: when(job["created_at"]),
}


def _speed(job: Mapping[str, Any]) -> str:
    speed = (job.get("progress") or {}).get("tokens_per_second")
    return f"{speed:,.0f} tokens/s" if speed else ""


def _steps(job: Mapping[str, Any]) -> str:
    progress = job.get("progress") or {}
    return f"{progress.get('step') or 0} of {progress['total_steps']}" if progress.get("total_steps") else ""


def _latest(job: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted((job.get("metrics") or {}).items()))


def _took(job: Mapping[str, Any]) -> Cell:
    start, stop = job.get("started_at"), job.get("finished_at")
    return Cell(duration(stop - start), f"{stop - start:.1f}") if start and stop else Cell("", "")


FIELDS: dict[str, Column] = {
    "id": lambda job: job["id"],
    "kind": lambda job: job["kind"],
    "state": lambda job: job["state"],
    "phase": lambda job: job.get("phase"),
    "error": _error,
    "result": _made,
    "steps": _steps,
    "tokens": lambda job: count((job.get("progress") or {}).get("tokens") or None),
    "speed": _speed,
    "latest": _latest,
    "attempts": lambda job: str(job.get("attempts") or ""),
    "created": lambda job: when(job["created_at"]),
    "took": _took,
    "spec": lambda job: Cell(
        json.dumps(job["spec"], indent=1, ensure_ascii=False), json.dumps(job["spec"], ensure_ascii=False)
    ),
}


@app.command()
def submit(
    ctx: typer.Context,
    spec: Annotated[str, typer.Argument(help="A file with the job as JSON; - reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate; create nothing.")] = False,
) -> None:
    """Submit a job; prints its id.

    \b
    Examples:
      weightsmith jobs submit job.json --watch
      jq '.seed = 8' job.json | weightsmith jobs submit - --watch
    """
    session = session_of(ctx)
    body = read_json(spec)
    if dry_run:
        session.raw(session.client.post("jobs", body, params={"dry_run": "true"}))
        return
    job = session.client.post("jobs", body)
    if session.json and not watch:
        session.raw(job)
    elif not session.json:
        typer.echo(job["id"])
    if watch:
        raise typer.Exit(attend(session, job["id"]))
    session.say(f"follow it: weightsmith jobs watch {job['id']}")


@app.command()
def ls(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Go on behind this id.")] = None,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    kind: Annotated[str | None, typer.Option(help="train or tokenizer.")] = None,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      weightsmith jobs ls --state running
      weightsmith jobs ls -q --state failed
    """
    session = session_of(ctx)
    page = session.client.get("jobs", limit=limit, after=after, state=state, kind=kind)
    session.listing(page, COLUMNS, empty="no jobs; submit one with `weightsmith jobs submit SPEC.json`")


@app.command()
def show(ctx: typer.Context, job: Job = "@last") -> None:
    """Show a job: state, figures, errors, every setting.

    \b
    Examples:
      weightsmith jobs show @last
      weightsmith jobs show job_abc --json | jq .spec
    """
    session = session_of(ctx)
    session.object(session.client.get(f"jobs/{job_id(session, job)}"), FIELDS)


@app.command()
def watch(
    ctx: typer.Context,
    job: Job = "@last",
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.", min=0.0)] = None,
) -> None:
    """Follow a job to its end. The exit code is its verdict: 0 succeeded, 3 failed or cancelled.

    Ctrl-C leaves; the job goes on.

    \b
    Examples:
      weightsmith jobs watch
      weightsmith jobs watch job_abc --timeout 3600 && echo done
    """
    session = session_of(ctx)
    raise typer.Exit(attend(session, job_id(session, job), timeout=timeout))


def attend(session: Session, job: str, *, timeout: float | None = None) -> ExitCode:
    """Follow a job and give its verdict; Ctrl-C leaves it alone."""
    from cli.watch import follow, verdict

    try:
        return verdict(session, follow(session, job, timeout=timeout))
    except KeyboardInterrupt:
        session.say(f"\n{job} goes on; look again with `weightsmith jobs watch {job}`")
        return ExitCode.INTERRUPTED


@app.command()
def logs(
    ctx: typer.Context,
    job: Job = "@last",
    tail: Annotated[int, typer.Option("--tail", "-n", help="Lines from the end.", min=1)] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it runs.")] = False,
) -> None:
    """Show what a job's process printed. With -f the exit code is the job's verdict.

    \b
    Examples:
      weightsmith jobs logs @last --tail 50
      weightsmith jobs logs job_abc -f
    """
    from cli.logs import follow_log, log_text

    session = session_of(ctx)
    found = job_id(session, job)
    if follow:
        raise typer.Exit(follow_log(session, found, tail))
    typer.echo(log_text(session, found, tail), nl=False)


@app.command()
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
    from cli.logs import follow_events, show_event
    from cli.watch import new_events

    session = session_of(ctx)
    found = job_id(session, job)
    if follow:
        raise typer.Exit(follow_events(session, found))
    for event in new_events(session, found, 0):
        show_event(session, event)


@app.command()
def cancel(ctx: typer.Context, job: Job) -> None:
    """Cancel a job for good.

    \b
    Example:
      weightsmith jobs cancel @running
    """
    act(session_of(ctx), job, "cancel")


@app.command()
def pause(ctx: typer.Context, job: Job) -> None:
    """Pause a job: it saves its work and gives its place to the next.

    \b
    Example:
      weightsmith jobs pause @running
    """
    act(session_of(ctx), job, "pause")


@app.command()
def resume(
    ctx: typer.Context,
    job: Job,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
) -> None:
    """Go on with a paused job, from the very step it was at.

    \b
    Example:
      weightsmith jobs resume @last --watch
    """
    session = session_of(ctx)
    found = act(session, job, "resume")
    if watch:
        raise typer.Exit(attend(session, found["id"]))


@app.command()
def clone(
    ctx: typer.Context,
    job: Job,
    change: Annotated[
        str | None, typer.Option(help="What is different, as JSON (or @FILE); null takes a setting away.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
) -> None:
    """Submit the same job again, with changes if you like; prints the new id.

    \b
    Examples:
      weightsmith jobs clone @last --watch
      weightsmith jobs clone job_abc --change '{"seed": 8}'
    """
    session = session_of(ctx)
    changes = json_of(change, "--change") if change else None
    made = session.client.post(f"jobs/{job_id(session, job)}/clone", changes)
    session.raw(made) if session.json else typer.echo(made["id"])
    if watch:
        raise typer.Exit(attend(session, made["id"]))


def act(session: Session, job: str, verb: str) -> dict[str, Any]:
    found: dict[str, Any] = session.client.post(f"jobs/{job_id(session, job)}/{verb}")
    if session.json:
        session.raw(found)
    else:
        typer.echo(f"{found['id']}\t{found['state']}" if not session.console.is_terminal else found["state"])
    return found


@app.command()
def metrics(
    ctx: typer.Context,
    job: Job = "@last",
    names: Annotated[str | None, typer.Option(help="Series, separated by commas.")] = None,
    max_points: Annotated[int | None, typer.Option(help="Of each series.", min=2)] = None,
) -> None:
    """Draw a job's loss.

    In a pipe: one point a line, as series, step and value.

    \b
    Examples:
      weightsmith jobs metrics @last
      weightsmith jobs metrics job_abc --names grad_norm | cut -f2,3
    """
    from cli.curve import draw

    session = session_of(ctx)
    wanted = names or (None if not session.console.is_terminal else "train_loss,validation_loss")
    found = session.client.get(
        f"jobs/{job_id(session, job)}/metrics",
        names=wanted,
        max_points=max_points or (400 if session.console.is_terminal else None),
    )
    if session.json:
        session.raw(found)
        return
    series = series_of(found)
    if not session.console.is_terminal:
        for name, points in series.items():
            for step, value in points:
                typer.echo(f"{name}\t{step:.0f}\t{value:.10g}")
        return
    utf8 = "utf" in (sys.stdout.encoding or "").lower()
    width = min(100, shutil.get_terminal_size().columns - 1)
    if names is None:
        typer.echo(loss_curve(series, width=width, braille=utf8))
        return
    for name, points in series.items():
        typer.echo("\n".join(draw(points, width=width, braille=utf8, name=name)))


def loss_curve(series: Mapping[str, list[tuple[float, float]]], *, width: int, braille: bool) -> str:
    """Training loss as a line, validation loss as marks on it."""
    from cli.curve import draw

    marks = series.get("validation_loss", [])
    title = "training loss" + (", o validation" if marks else "")
    return "\n".join(draw(series.get("train_loss", []), marks, width=width, braille=braille, name=title))


def series_of(found: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """The points of each series in the API's answer; those that were no numbers are left out."""
    return {
        series["name"]: [(point["step"], point["value"]) for point in series["points"] if point["value"] is not None]
        for series in found["data"]
    }


@app.command()
def receipt(ctx: typer.Context, job: Job = "@last") -> None:
    """Print what is needed to run a job again (JSON).

    Spec, data hashes, versions, hardware, seed.

    \b
    Example:
      weightsmith jobs receipt @last > receipt.json
    """
    session = session_of(ctx)
    session.raw(session.client.get(f"jobs/{job_id(session, job)}/receipt"))


def job_id(session: Session, reference: str) -> str:
    """The id that a reference stands for: an id, the beginning of one, @last, @running."""
    if reference.startswith("@"):
        if reference not in ("@last", "@running"):
            raise Problem(f"{reference}: there are @last and @running", exit_code=ExitCode.USAGE)
        state = "running" if reference == "@running" else None
        found = session.client.get("jobs", limit=1, state=state)["data"]
        if not found:
            raise Problem("no job is running" if state else "there are no jobs yet", exit_code=ExitCode.NOT_FOUND)
        return str(found[0]["id"])
    if len(reference) >= ID_LENGTH or not reference.startswith("job_"):
        return reference
    fitting = [job["id"] for job in session.client.pages("jobs", limit=1000) if job["id"].startswith(reference)]
    if len(fitting) > 1:
        raise Problem(f"{reference} fits {len(fitting)} jobs: {', '.join(fitting[:3])}", exit_code=ExitCode.NOT_FOUND)
    return str(fitting[0]) if fitting else reference
