"""`weightsmith train`: a file in, a model out, in one line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.problem import ExitCode, Problem
from cli.session import Session, noun, session_of

app = noun()


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[list[str], typer.Option("--data", "-d", help="A file here, or the id of an uploaded one.")],
    base: Annotated[str | None, typer.Option("--from", help="Model to fine-tune. Default: random weights.")] = None,
    preset: Annotated[str, typer.Option(help="Size of a new model: nano, micro, mini, small, …")] = "nano",
    tokenizer: Annotated[
        str | None, typer.Option(help="A tokenizer's id, or bytes. Default: one is trained first.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Of that tokenizer.", min=512)] = 4096,
    objective: Annotated[
        str | None, typer.Option(help="causal_lm, supervised. Default: causal_lm for new models.")
    ] = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a training row.", min=8)] = 256,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    epochs: Annotated[float | None, typer.Option(help="Default: 1, or 3 to fine-tune.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: by size.")] = None,
    validation: Annotated[float, typer.Option(help="Part of the data that is held out.", min=0.0, max=0.5)] = 0.02,
    suffix: Annotated[str | None, typer.Option(help="Part of the model's name. Default: the file's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow it.")] = False,
) -> None:
    """Upload files and train on them: a new model, or an old one further. Prints the job's id.

    \b
    Examples:
      weightsmith train --data plays.txt --preset nano --steps 300
      weightsmith train --data chats.jsonl --from pt:default:plays:1a2b3c4d
    """
    from cli.corpus import fit_for_name
    from cli.jobs import attend

    session = session_of(ctx)
    if steps is not None and epochs is not None:
        raise Problem("give --steps or --epochs, not both", exit_code=ExitCode.USAGE)
    files = [uploaded(session, place) for place in data]
    sources = [{"file": file} for file in files]
    if base is not None:
        model: dict[str, Any] = {"init": "pretrained", "from": base}
    else:
        tokenizer = tokenizer or trained_tokenizer(session, sources, vocab_size)
        model = {"init": "random", "family": "llama", "preset": preset, "tokenizer": tokenizer}
    spec: dict[str, Any] = {
        "kind": "train",
        "model": model,
        "data": {"train": sources, "sequence_length": sequence_length}
        | ({"validation": {"fraction": validation}} if validation else {}),
        "objective": {"kind": objective or ("supervised" if base else "causal_lm")},
        "budget": {"steps": steps} if steps else {"epochs": epochs or (3 if base else 1)},
        "seed": seed,
    }
    if learning_rate is not None:
        spec["optimizer"] = {"kind": "adamw", "learning_rate": learning_rate}
    if suffix := suffix or next((fit_for_name(Path(place)) for place in data if Path(place).is_file()), None):
        spec["suffix"] = suffix
    job = session.client.post("jobs", spec)
    if not session.json:
        typer.echo(job["id"])
    elif detach:
        session.raw(job)
    if detach:
        session.say(f"follow it: weightsmith jobs watch {job['id']}")
        return
    raise typer.Exit(attend(session, job["id"]))


def uploaded(session: Session, place: str) -> str:
    """The id of a file: uploaded now, or before."""
    from cli.files import upload

    path = Path(place)
    if path.is_file():
        file = upload(session, path)
        session.say(f"uploaded {path.name}: {file['id']}")
        return str(file["id"])
    if place.startswith("file-"):
        return place
    raise Problem(
        f"{place}: no such file, and no id of one", exit_code=ExitCode.USAGE, hint="`weightsmith files ls` lists ids"
    )


def trained_tokenizer(session: Session, sources: list[dict[str, str]], vocab_size: int) -> str:
    """Train a tokenizer on the same text; returns its id."""
    from cli.watch import follow, verdict

    job = session.client.post("jobs", {"kind": "tokenizer", "vocab_size": vocab_size, "data": {"train": sources}})
    session.say(f"training a tokenizer first: {job['id']}")
    over = follow(session, job["id"])
    if over["state"] != "succeeded":
        raise typer.Exit(verdict(session, over))
    return str(over["result"]["tokenizer"])
