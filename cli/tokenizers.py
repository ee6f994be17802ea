"""`weightsmith tokenizers`: how text becomes numbers."""

from typing import Annotated

import typer

from cli.commands import noun
from cli.completion import complete_tokenizers
from cli.session import Column, count, session_of, when

app = noun()

COLUMNS: dict[str, Column] = {
    "id": lambda tokenizer: tokenizer["id"],
    "vocabulary": lambda tokenizer: count(tokenizer["vocab_size"]),
    "created": lambda tokenizer: when(tokenizer["created_at"]),
}
FIELDS: dict[str, Column] = COLUMNS | {
    "job": lambda tokenizer: tokenizer.get("job"),
    "sha256": lambda tokenizer: tokenizer.get("sha256"),
    "metrics": lambda tokenizer: ", ".join(
        f"{name} {value:.4g}" for name, value in sorted((tokenizer.get("metrics") or {}).items())
    ),
}


@app.command()
def ls(ctx: typer.Context) -> None:
    """List tokenizers.

    \b
    Example:
      weightsmith tokenizers ls
    """
    session = session_of(ctx)
    session.listing(session.client.get("tokenizers"), COLUMNS, empty="no tokenizers yet; a tokenizer job makes one")


@app.command()
def show(
    ctx: typer.Context, tokenizer: Annotated[str, typer.Argument(help="Its id.", autocompletion=complete_tokenizers)]
) -> None:
    """Show a tokenizer.

    \b
    Example:
      weightsmith tokenizers show tok_abc
    """
    session = session_of(ctx)
    session.object(session.client.get(f"tokenizers/{tokenizer}"), FIELDS)


@app.command()
def rm(
    ctx: typer.Context,
    tokenizer: Annotated[str, typer.Argument(help="Its id.", autocompletion=complete_tokenizers)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a tokenizer that no job needs. Models keep their own copy.

    \b
    Example:
      weightsmith tokenizers rm tok_abc --yes
    """
    session = session_of(ctx)
    session.confirm(f"Delete {tokenizer}?", tokenizer, yes=yes)
    deleted = session.client.delete(f"tokenizers/{tokenizer}")
    session.raw(deleted) if session.json else session.say(f"deleted {tokenizer}")
