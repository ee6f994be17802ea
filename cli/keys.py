"""`weightsmith keys`: who may talk to the service."""

from typing import Annotated

import typer

from cli.commands import noun
from cli.completion import complete_keys
from cli.session import Column, session_of, when

app = noun()

COLUMNS: dict[str, Column] = {
    "id": lambda key: key["id"],
    "name": lambda key: key["name"],
    "scopes": lambda key: ",".join(key.get("scopes") or []),
    "key": lambda key: key.get("redacted_value"),
    "project": lambda key: key.get("project"),
    "created": lambda key: when(key["created_at"]),
    "revoked": lambda key: when(key.get("revoked_at")),
    "last used": lambda key: when(key.get("last_used_at")),
}


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do; may be given more than once.")] = None,
    project: Annotated[str | None, typer.Option(help="Its project. Default: yours.")] = None,
    days: Annotated[float | None, typer.Option(help="How long it lasts. Default: until it is revoked.")] = None,
) -> None:
    """Create a key; prints it, this once. Without --scope it may read, write and generate.

    \b
    Examples:
      weightsmith keys create laptop
      weightsmith keys create dashboard --scope read --days 90
    """
    session = session_of(ctx)
    body = {"name": name, "scopes": scope or None, "project": project, "expires_in_days": days}
    made = session.client.post("keys", {name: value for name, value in body.items() if value is not None})
    if session.json:
        session.raw(made)
        return
    typer.echo(made["value"])
    session.say("It is shown this once. Use it as WEIGHTSMITH_API_KEY, or as OPENAI_API_KEY with OPENAI_BASE_URL.")


@app.command()
def ls(ctx: typer.Context) -> None:
    """List keys; of each only its ends are shown.

    \b
    Example:
      weightsmith keys ls
    """
    session = session_of(ctx)
    session.listing(session.client.get("keys"), COLUMNS, empty="no keys")


@app.command()
def rm(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Its id.", autocompletion=complete_keys)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Revoke a key at once.

    \b
    Example:
      weightsmith keys rm key_abc --yes
    """
    session = session_of(ctx)
    session.confirm(f"Revoke {key}? Whoever uses it is locked out.", key, yes=yes)
    deleted = session.client.delete(f"keys/{key}")
    session.raw(deleted) if session.json else session.say(f"revoked {key}")
