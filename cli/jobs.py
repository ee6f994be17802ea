"""`weightsmith jobs`: what trains, from the first look at its data to the model it leaves."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import compare, logs, reports, watching
from cli.commands import noun
from cli.references import Job, job_id
from cli.session import Cell, Column, Session, count, duration, json_of, read_json, session_of, when
from cli.watching import attend

app = noun()


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
        raise typer.Exit(attend(session, [job["id"]]))
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


app.command()(watching.watch)
app.command()(watching.wait)
app.command()(logs.logs)
app.command()(logs.events)
app.command()(reports.metrics)
app.command()(reports.samples)
app.command()(reports.checkpoints)
app.command()(compare.diff)


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
        raise typer.Exit(attend(session, [found["id"]]))


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
        raise typer.Exit(attend(session, [made["id"]]))


def act(session: Session, job: str, verb: str) -> dict[str, Any]:
    found: dict[str, Any] = session.client.post(f"jobs/{job_id(session, job)}/{verb}")
    if session.json:
        session.raw(found)
    elif session.console.is_terminal:
        waiting = found["state"] in ("running", "validating")
        typer.echo(
            f"{found['state']}: the {verb} was asked for, and is felt within seconds" if waiting else found["state"]
        )
    else:
        typer.echo(f"{found['id']}\t{found['state']}")
    return found


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
