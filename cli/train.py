"""`weightsmith train`: a file in, a model out, in one line. `weightsmith estimate`: what that would take."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import recipe as said
from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.recipe import BYTES, Recipe, known_tokenizer, uploaded
from cli.session import Cell, Session, count, read_json, session_of, size

train_app = noun()
estimate_app = noun()
LANGUAGES = ("curl", "python")


@train_app.command()
def train(
    ctx: typer.Context,
    data: said.Data,
    base: said.Base = None,
    preset: said.Preset = "nano",
    family: said.Family = "llama",
    tokenizer: said.TokenizerOption = None,
    vocab_size: said.VocabSize = 4096,
    objective: said.ObjectiveOption = None,
    sequence_length: said.SequenceLength = 256,
    steps: said.Steps = None,
    epochs: said.Epochs = None,
    batch: said.BatchOption = None,
    learning_rate: said.LearningRate = None,
    lora: said.Lora = None,
    validation: said.Validation = 0.02,
    suffix: said.Suffix = None,
    seed: said.Seed = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take; no job is made.")] = False,
    show: Annotated[str | None, typer.Option(help="Only print the same as a program: curl or python.")] = None,
) -> None:
    """Upload files and train on them: a new model, or an old one further. Prints the job's id.

    \b
    Examples:
      weightsmith train --data plays.txt --preset small
      weightsmith train --data chats.jsonl --from plays --lora 8
      weightsmith train --data plays.txt --dry-run
      weightsmith train --data plays.txt --show curl
    """
    from cli.watching import attend

    session = session_of(ctx)
    recipe = Recipe(
        **_settings(ctx.params, left_out=("ctx", "detach", "dry_run", "show")),
    )
    if show is not None:
        typer.echo(as_program(session, recipe, show))
        return
    recipe = with_base(session, recipe)
    files = [uploaded(session, place) for place in recipe.data]
    ids, format = [file["id"] for file in files], files[0].get("format")
    if dry_run:
        show_estimate(session, dry(session, recipe, ids, format))
        return
    tokenizer = trained_tokenizer(session, recipe, ids) if recipe.needs_tokenizer else recipe.tokenizer
    job = session.client.post("jobs", recipe.spec(ids, tokenizer, format))
    if not session.json:
        typer.echo(job["id"])
    elif detach:
        session.raw(job)
    if detach:
        session.say(f"follow it: weightsmith jobs watch {job['id']}")
        return
    raise typer.Exit(attend(session, [job["id"]]))


@estimate_app.command()
def estimate(
    ctx: typer.Context,
    spec: Annotated[str | None, typer.Argument(help="A file with the job as JSON; - reads standard input.")] = None,
    data: said.Data = [],  # noqa: B006  (typer copies it)
    base: said.Base = None,
    preset: said.Preset = "nano",
    family: said.Family = "llama",
    tokenizer: said.TokenizerOption = None,
    vocab_size: said.VocabSize = 4096,
    objective: said.ObjectiveOption = None,
    sequence_length: said.SequenceLength = 256,
    steps: said.Steps = None,
    epochs: said.Epochs = None,
    batch: said.BatchOption = None,
    learning_rate: said.LearningRate = None,
    lora: said.Lora = None,
    validation: said.Validation = 0.02,
    suffix: said.Suffix = None,
    seed: said.Seed = 0,
) -> None:
    """Say what a job would take: steps, tokens, operations, memory. No job is made.

    \b
    Examples:
      weightsmith estimate job.json
      weightsmith estimate --data plays.txt --preset small
    """
    session = session_of(ctx)
    if spec is not None:
        show_estimate(session, session.client.post("jobs", read_json(spec), params={"dry_run": "true"}))
        return
    recipe = with_base(session, Recipe(**_settings(ctx.params, left_out=("ctx", "spec"))))
    files = [uploaded(session, place) for place in recipe.data]
    show_estimate(session, dry(session, recipe, [file["id"] for file in files], files[0].get("format")))


def _settings(given: Mapping[str, Any], *, left_out: tuple[str, ...]) -> dict[str, Any]:
    """What the line says, as the recipe takes it."""
    return {name: value for name, value in given.items() if name not in left_out} | {"data": tuple(given["data"] or ())}


def with_base(session: Session, recipe: Recipe) -> Recipe:
    """The recipe with the name by which the service knows its base."""
    from dataclasses import replace

    from cli.references import model_id

    return recipe if recipe.base is None else replace(recipe, base=model_id(session, recipe.base))


def trained_tokenizer(session: Session, recipe: Recipe, files: list[str]) -> str:
    """A tokenizer for the same text: one that there is, or one that is trained now; returns its id."""
    from cli.watch import follow, verdict

    known = known_tokenizer(session, recipe, files)
    if known is not None:
        session.say(f"its tokenizer was trained before: {known}")
        return known
    job = session.client.post("jobs", recipe.tokenizer_spec(files))
    session.say(f"training a tokenizer first: {job['id']}")
    over = follow(session, job["id"])
    if over["state"] != "succeeded":
        raise typer.Exit(verdict(session, over))
    return str(over["result"]["tokenizer"])


def dry(session: Session, recipe: Recipe, files: list[str], format: str | None) -> Any:
    """The service's estimate; where a tokenizer would be trained first, with bytes in its place."""
    tokenizer = recipe.tokenizer
    if recipe.needs_tokenizer:
        tokenizer = known_tokenizer(session, recipe, files) or BYTES
        if tokenizer == BYTES:
            session.say("estimated with bytes as tokens; with a tokenizer of its own, text is about a quarter of that")
    return session.client.post("jobs", recipe.spec(files, tokenizer, format), params={"dry_run": "true"})


def show_estimate(session: Session, found: Any) -> None:
    """Figures for people; in a pipe or as JSON those of the API."""
    if session.json:
        session.raw(found)
        return
    shown: dict[str, Cell | str] = {"parameters": count(found.get("parameters"))}
    for name, value in (found.get("estimate") or {}).items():
        amount = size(value) if name.endswith("bytes") else count(value)
        shown[name.replace("_", " ")] = amount
    session.facts(shown)


def as_program(session: Session, recipe: Recipe, language: str) -> str:
    """The same job, as somebody would write it who has no command line. Nothing is sent."""
    if language not in LANGUAGES:
        raise Problem(f"--show {language}: there are {' and '.join(LANGUAGES)}", exit_code=ExitCode.USAGE)
    from cli import program

    return program.curl(recipe) if language == "curl" else program.python(recipe)
