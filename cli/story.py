"""How the demo tells what it does."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import typer

from cli.up import CREDENTIALS

PARTS = 6
MARGIN = " " * 6


def heading(number: int, text: str) -> None:
    typer.echo(f"\n[{number}/{PARTS}] {text}")


def tell(text: str) -> None:
    typer.echo(MARGIN + text)


def write(prompt: str, pieces: Iterable[str]) -> None:
    """Print text as it comes, set off from what the demo says."""
    margin = MARGIN + "| "
    typer.echo()
    sys.stdout.write(margin + prompt.replace("\n", "\n" + margin))
    for piece in pieces:
        sys.stdout.write(piece.replace("\n", "\n" + margin))
        sys.stdout.flush()
    sys.stdout.write("\n\n")
    sys.stdout.flush()


def farewell(model: str, helper: str, folder: Path, *, goes_on: bool) -> str:
    """What there is now, and what can be done with it."""
    key = folder / CREDENTIALS
    option = "" if folder == Path(".weightsmith").resolve() else f" --home {folder}"
    start = (
        "The stack goes on running."
        if goes_on
        else f"Start the stack again and keep it running:\n  {command()} up{option}"
    )
    return f"""\
Both models are kept in {folder}:
  {model}
  {helper}

{start}
Then, in another terminal:
  {command()} chat {helper}
From any program, with OpenAI's client:
  import json, openai
  client = openai.OpenAI(**json.load(open("{key}")))
  client.chat.completions.create(model="{helper}",
      messages=[{{"role": "user", "content": "Hello"}}])
With curl, address and key from {key}:
  curl $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" \\
    -H "Content-Type: application/json" -d '{{"model":
    "{helper}",
    "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def command() -> str:
    """How the user calls us."""
    return "weightsmith" if shutil.which("weightsmith") else sys.argv[0]
