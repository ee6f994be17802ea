"""What a job has to show: its curves, the texts it wrote, the checkpoints it left."""

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.references import Job
from cli.session import Column, printable, session_of, size, when


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
    from cli.references import job_id

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


def samples(ctx: typer.Context, job: Job = "@last") -> None:
    """Show the texts that a job wrote while it trained, oldest first.

    \b
    Examples:
      weightsmith jobs samples @running
      weightsmith jobs samples job_abc --json | jq .data.text
    """
    from cli.references import job_id
    from cli.watch import new_events

    session = session_of(ctx)
    found = job_id(session, job)
    told = False
    for event in new_events(session, found, 0):
        if event["kind"] != "sampled":
            continue
        told, data = True, event.get("data") or {}
        if session.json:
            session.line(event)
        elif session.console.is_terminal:
            session.console.print(f"── step {data.get('step')}", style="dim")
            session.console.print(printable(data.get("prompt", "")), style="dim", end="")
            session.console.print(printable(data.get("text", "")))
        else:
            prompt, text = (json.dumps(data.get(name, ""), ensure_ascii=False) for name in ("prompt", "text"))
            typer.echo(f"{data.get('step')}\t{prompt}\t{text}")
    if not told:
        session.say("no samples yet; they are written at each evaluation (evaluation.samples says how many)")


CHECKPOINTS: dict[str, Column] = {
    "step": lambda row: str(row["step"]),
    "model": lambda row: row["model"],
    "best": lambda row: "best" if row["best"] else "",
    "metrics": lambda row: ", ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items() if value),
    "size": lambda row: size(row["bytes"]),
    "created": lambda row: when(row["created_at"]),
}


def checkpoints(ctx: typer.Context, job: Job = "@last") -> None:
    """List a job's checkpoints; each can be generated with by its name, also while it trains.

    \b
    Example:
      weightsmith jobs checkpoints @running
    """
    from cli.references import job_id

    session = session_of(ctx)
    page = session.client.get(f"jobs/{job_id(session, job)}/checkpoints")
    session.listing(page, CHECKPOINTS, empty="no checkpoint yet")
