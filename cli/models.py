"""`weightsmith models`: what training leaves and what can be generated with."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.commands import noun
from cli.completion import complete_models
from cli.problem import Problem
from cli.references import Model, model_id
from cli.session import Cell, Column, Session, count, session_of, size, when

app = noun()

COLUMNS: dict[str, Column] = {
    "id": lambda model: model["id"],
    "parameters": lambda model: count(model.get("parameters")),
    "size": lambda model: size(model.get("bytes")),
    "created": lambda model: when(model["created"]),
}


def _metrics(model: Any) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted((model.get("metrics") or {}).items()))


def _adapter(adapter: Any) -> str:
    kind = "DoRA" if adapter and adapter["decomposed"] else "LoRA"
    return f"{kind} of rank {adapter['rank']} on {', '.join(adapter['targets'])}" if adapter else ""


def _config(model: Any) -> Cell:
    config = model.get("config") or {}
    shown = ", ".join(f"{name} {value}" for name, value in config.items())
    return Cell(shown, shown)


FIELDS: dict[str, Column] = COLUMNS | {
    "family": lambda model: model.get("family"),
    "parent": lambda model: model.get("parent"),
    "base": lambda model: model.get("base"),
    "adapter": lambda model: _adapter(model.get("adapter")),
    "job": lambda model: model.get("job"),
    "metrics": _metrics,
    "chat": lambda model: "yes" if model.get("has_chat_template") else "",
    "answers at": lambda model: ", ".join(model.get("endpoints") or ()),
    "config": _config,
}


def address(model: str) -> str:
    """The path of a model; a `/` in its name is data."""
    return f"models/{quote(model, safe=':')}"


@app.command()
def ls(ctx: typer.Context) -> None:
    """List models.

    \b
    Examples:
      weightsmith models ls
      weightsmith models ls -q
    """
    session = session_of(ctx)
    session.listing(session.client.get("models"), COLUMNS, empty="no models yet; `weightsmith train` makes one")


@app.command()
def show(ctx: typer.Context, model: Model) -> None:
    """Show a model: size, lineage, figures.

    \b
    Example:
      weightsmith models show pt:default:plays:1a2b3c4d
    """
    session = session_of(ctx)
    session.object(session.client.get(address(model_id(session, model))), FIELDS)


@app.command()
def rm(
    ctx: typer.Context,
    models: Annotated[list[str], typer.Argument(help="Their ids.", metavar="MODEL...", autocompletion=complete_models)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete models. One that a job still needs is kept.

    \b
    Example:
      weightsmith models rm pt:default:plays:1a2b3c4d --yes
    """
    session = session_of(ctx)
    for model in [model_id(session, reference) for reference in models]:
        session.confirm(f"Delete {model} for good?", model, yes=yes)
        deleted = session.client.delete(address(model))
        session.raw(deleted) if session.json else session.say(f"deleted {model}")


@app.command()
def pull(
    ctx: typer.Context,
    model: Model,
    to: Annotated[Path | None, typer.Option("--to", "-o", help="File. Default: the model's name.")] = None,
    format: Annotated[
        str,
        typer.Option(help="safetensors: the whole model, adapters merged; adapter: its PEFT directory; gguf: a file."),
    ] = "safetensors",
    quantization: Annotated[
        str | None, typer.Option(help="Of a GGUF file: f32, f16, q8_0 (the default) or q4_0.")
    ] = None,
) -> None:
    """Download a model: a zip of its Hugging Face or PEFT directory, or a GGUF file. Prints the file's name.

    \b
    Examples:
      weightsmith models pull pt:default:plays:1a2b3c4d
      weightsmith models pull plays --to plays.zip && unzip plays.zip -d plays
      weightsmith models pull helper --format adapter
      weightsmith models pull helper --format gguf --quantization q4_0
    """
    session = session_of(ctx)
    model = model_id(session, model)
    ending = f".{(quantization or 'q8_0').lower()}.gguf" if format == "gguf" else ".zip"
    target = to or Path(model.replace(":", "-").replace("/", "-") + ending)
    part = target.with_name(target.name + ".part")
    try:
        _download(session, f"{address(model)}/download", part, format=format, quantization=quantization)
        part.replace(target)
    except OSError as error:
        raise Problem(f"{target}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    typer.echo(str(target))
    readers = "llama.cpp and its kin read it" if format == "gguf" else "transformers and vLLM read the folder in it"
    session.say(f"{size(target.stat().st_size).shown}; {readers}")


def _download(session: Session, path: str, part: Path, **params: str | None) -> None:
    from cli.files import progress_bar

    with (
        session.client.stream("GET", path, params=params) as response,
        progress_bar(session, part.stem, int(response.headers.get("content-length", 0)) or None) as advance,
        part.open("wb") as file,
    ):
        for block in response.iter_bytes(1 << 20):
            file.write(block)
            advance(len(block))


@app.command()
def alias(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A name of your choice, e.g. gpt-4o-mini.", metavar="ALIAS")],
    model: Model,
) -> None:
    """Let a name of your own stand for a model, so that code need not change.

    \b
    Example:
      weightsmith models alias gpt-4o-mini pt:default:plays:1a2b3c4d
    """
    session = session_of(ctx)
    model = model_id(session, model)
    found = session.client.request("PUT", f"{address(name)}/alias", json={"model": model}).json()
    session.raw(found) if session.json else session.say(f"{name} now stands for {model}")


@app.command()
def unalias(ctx: typer.Context, name: Annotated[str, typer.Argument(help="The alias.", metavar="ALIAS")]) -> None:
    """Remove an alias; the model stays.

    \b
    Example:
      weightsmith models unalias gpt-4o-mini
    """
    session = session_of(ctx)
    deleted = session.client.delete(f"{address(name)}/alias")
    session.raw(deleted) if session.json else session.say(f"{name} stands for nothing now")


@app.command()
def aliases(ctx: typer.Context) -> None:
    """List aliases.

    \b
    Example:
      weightsmith models aliases
    """
    session = session_of(ctx)
    columns: dict[str, Column] = {
        "alias": lambda row: row.get("alias") or row["id"],
        "model": lambda row: row["model"],
        "created": lambda row: when(row.get("created_at")),
    }
    session.listing(session.client.get("aliases"), columns, empty="no aliases; `weightsmith models alias ALIAS MODEL`")


@app.command("import")
def import_(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(help="A Hugging Face or PEFT directory on the server.", metavar="PATH")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    base: Annotated[str | None, typer.Option(help="Of a PEFT directory: the model it stands on.")] = None,
) -> None:
    """Take over a model from a folder that the server's operator allows (WEIGHTSMITH_IMPORT_FOLDERS).

    \b
    Example:
      weightsmith models import /models/SmolLM2-135M
      weightsmith models import /models/my-adapter --base SmolLM2-135M
    """
    session = session_of(ctx)
    given = {"name": name, "base": base}
    body = {"path": str(Path(path).resolve())} | {key: value for key, value in given.items() if value}
    found = session.client.post("models/import", body, timeout=600.0)
    session.raw(found) if session.json else typer.echo(found["id"])
