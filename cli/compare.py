"""Two runs beside each other: what was set differently, what came of it, and what both models answer."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from cli.commands import noun
from cli.completion import complete_jobs, complete_models
from cli.problem import ExitCode, Problem
from cli.session import Column, Session, printable, session_of

app = noun()
MARKS = 40
"""Of the second curve."""


class Difference(NamedTuple):
    """A setting or a figure of two runs."""

    name: str
    a: Any
    b: Any


@app.command()
def compare(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(help="A job, or a model.", autocompletion=complete_jobs, metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one.", autocompletion=complete_models, metavar="B")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Let both models answer this.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Of an answer.", min=1)] = 100,
) -> None:
    """Compare two runs: settings that differ, figures, both curves. With --prompt: what both models say.

    \b
    Examples:
      weightsmith compare @last job_abc
      weightsmith compare plays plays-lora --prompt "To be"
    """
    session = session_of(ctx)
    if prompt is not None:
        answers(session, a, b, prompt, max_tokens)
        return
    one, other = run_of(session, a), run_of(session, b)
    settings = differences(one["spec"], other["spec"])
    figures = differences(one.get("metrics") or {}, other.get("metrics") or {}, equal=True)
    if session.json:
        session.raw(
            {
                "object": "comparison",
                "a": one["id"],
                "b": other["id"],
                "settings": [row._asdict() for row in settings],
                "metrics": [row._asdict() for row in figures],
            }
        )
        return
    show(session, settings, nothing="the settings are the same")
    show(session, figures, nothing="there are no figures yet")
    if session.console.is_terminal:
        typer.echo("\n" + curves(session, one["id"], other["id"]))


def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(help="A job.", autocompletion=complete_jobs, metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one.", autocompletion=complete_jobs, metavar="B")],
) -> None:
    """Show the settings in which two jobs differ.

    \b
    Example:
      weightsmith jobs diff @last job_abc
    """
    session = session_of(ctx)
    rows = differences(run_of(session, a)["spec"], run_of(session, b)["spec"])
    if session.json:
        session.raw({"object": "list", "data": [row._asdict() for row in rows], "has_more": False})
    else:
        show(session, rows, nothing="they are the same")


def run_of(session: Session, reference: str) -> dict[str, Any]:
    """The job that is meant, or the one that made the model that is meant."""
    from cli.models import address
    from cli.references import job_id, model_id

    try:
        found: dict[str, Any] = session.client.get(f"jobs/{job_id(session, reference)}")
        return found
    except Problem as problem:
        if problem.exit_code is not ExitCode.NOT_FOUND or reference.startswith(("@", "job_")):
            raise
        not_a_job = problem
    try:
        model = session.client.get(address(model_id(session, reference)))
    except Problem as problem:
        raise not_a_job if problem.exit_code is ExitCode.NOT_FOUND else problem from None
    if not model.get("job"):
        raise Problem(f"{reference} was imported: no run of it is known", exit_code=ExitCode.NOT_FOUND)
    made: dict[str, Any] = session.client.get(f"jobs/{model['job']}")
    return made


def differences(a: Mapping[str, Any], b: Mapping[str, Any], *, equal: bool = False) -> list[Difference]:
    """Leaf by leaf, by dotted name; with `equal` also those that agree."""
    left, right = dict(leaves(a)), dict(leaves(b))
    names = dict.fromkeys([*left, *right])
    rows = [Difference(name, left.get(name), right.get(name)) for name in names]
    return [row for row in rows if equal or row.a != row.b]


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object, with the way to it. A list of plain values is one value."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(one, Mapping) for one in tree):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{name}.{number}")
    else:
        yield name, tree


def show(session: Session, rows: list[Difference], *, nothing: str) -> None:
    columns: dict[str, Column] = {
        "": lambda row: row["name"],
        "a": lambda row: _text(row["a"]),
        "b": lambda row: _text(row["b"]),
        "b - a": lambda row: _change(row["a"], row["b"]),
    }
    data = [row._asdict() | {"id": row.name} for row in rows]
    session.listing({"object": "list", "data": data, "has_more": False}, columns, empty=nothing)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _change(a: Any, b: Any) -> str:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (a, b))
    return f"{b - a:+.4g}" if numbers else ""


def curves(session: Session, a: str, b: str) -> str:
    """Training loss of both: the first as a line, the second as marks on it."""
    from cli.curve import draw
    from cli.reports import series_of

    line, marks = (
        series_of(session.client.get(f"jobs/{job}/metrics", names="train_loss", max_points=points)).get("train_loss")
        for job, points in ((a, 400), (b, MARKS))
    )
    width = min(100, shutil.get_terminal_size().columns - 1)
    utf8 = "utf" in (sys.stdout.encoding or "").lower()
    return "\n".join(draw(line or [], marks or [], width=width, braille=utf8, name="training loss: a, o b"))


def answers(session: Session, a: str, b: str, prompt: str, max_tokens: int) -> None:
    """What both say to the same words, with the same seed."""
    said = {name: answer(session, name, prompt, max_tokens) for name in (a, b)}
    if session.json:
        session.raw({"object": "list", "data": list(said.values()), "has_more": False})
        return
    for found in said.values():
        choice = found["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        if session.console.is_terminal:
            session.console.print(f"── {found['model']}", style="bold")
            typer.echo(printable(text) + "\n")
        else:
            typer.echo(f"{found['model']}\t{json.dumps(text, ensure_ascii=False)}")


def answer(session: Session, reference: str, prompt: str, max_tokens: int) -> Any:
    """A chat's answer where the model has a template for one, else the text's continuation."""
    from cli.models import address
    from cli.references import model_id

    name = model_id(session, reference)
    body = {"model": name, "max_tokens": max_tokens, "temperature": 0.7, "seed": 7}
    if session.client.get(address(name)).get("has_chat_template"):
        turns = [{"role": "user", "content": prompt}]
        return session.client.post("chat/completions", body | {"messages": turns}, timeout=600.0)
    return session.client.post("completions", body | {"prompt": prompt}, timeout=600.0)
