"""`weightsmith config` and `weightsmith login`: which service is spoken to, and who says so."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.session import Column, Session, session_of

config_app = noun()
login_app = noun()

COLUMNS: dict[str, Column] = {
    "place": lambda row: row["place"],
    "state": lambda row: row["state"],
    "base_url": lambda row: row["base_url"],
    "api_key": lambda row: row["api_key"],
}


@config_app.command()
def config(ctx: typer.Context) -> None:
    """Show where address and key may come from, in their order, and which place has won.

    \b
    Examples:
      weightsmith config
      weightsmith config --json
    """
    session = session_of(ctx)
    rows = rows_of(session)
    session.listing({"object": "list", "data": rows, "has_more": False}, COLUMNS, empty="")
    if all(row["state"] != "used" for row in rows):
        session.say("nobody is signed in: `weightsmith up` starts a stack here, `weightsmith login` names another one")


def rows_of(session: Session) -> list[dict[str, Any]]:
    """Every place of credentials with what stands there; keys are never shown whole."""
    from cli.credentials import LOCAL, chosen, places, redacted

    found = places(session.base_url, session.api_key)
    winner = chosen(found)
    return [
        {
            "id": place.name,
            "place": place.name,
            "state": "used" if place is winner else "there" if place.base_url or place.complete else "",
            "base_url": place.base_url or (LOCAL if place is winner else None),
            "api_key": redacted(place.api_key) if place.api_key else None,
        }
        for place in found
    ]


@login_app.command()
def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="The service, e.g. https://train.example.org/v1", metavar="URL")],
) -> None:
    """Remember a service and its key for this user. The key is asked for, or read from standard input.

    \b
    Examples:
      weightsmith login https://train.example.org/v1
      weightsmith login http://10.0.0.5:8000/v1 < key.txt
    """
    from contextlib import closing

    from cli.client import Client
    from cli.credentials import Credentials, user_file

    session = session_of(ctx)
    url = url.rstrip("/")
    key = typer.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise Problem("no key was given", exit_code=ExitCode.USAGE, hint=f"weightsmith login {url} < key.txt")
    with closing(Client(Credentials(url, key.strip(), "login"))) as client:
        models = client.get("models")["data"]
    file = user_file()
    write_private(file, json.dumps({"base_url": url, "api_key": key.strip()}))
    session.say(f"signed in at {url} ({len(models)} models); kept in {file}")


def write_private(file: Path, text: str) -> None:
    """Only its owner may ever read it, also while it is written."""
    import os

    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(text + "\n")
    part.replace(file)
