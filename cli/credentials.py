"""Where the service is and the key that opens it: flags, variables, or a file.

A key and the address it is for always come from one place: a key from a file or from OpenAI's variables is never sent
to an address that was named elsewhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from cli.problem import ExitCode, Problem
from core.settings import client_environment

FILE = "credentials.json"
CREDENTIALS = Path(".weightsmith") / FILE
LOCAL = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class Credentials:
    """Where the service is, and the key that opens it."""

    base_url: str
    """ends with /v1"""
    api_key: str
    source: str
    """for people: which place they come from"""


@dataclass(frozen=True)
class Place:
    """Where credentials may stand, and what stands there."""

    name: str
    base_url: str | None = None
    api_key: str | None = None
    file: Path | None = None

    @property
    def complete(self) -> bool:
        return self.api_key is not None or self.file is not None


def find_credentials(base_url: str | None, api_key: str | None, *, start: Path | None = None) -> Credentials:
    """Those of the first place that has some.

    Raises:
        Problem: no key anywhere, or a file that cannot be read.
    """
    found = chosen(places(base_url, api_key, start=start))
    if found is None:
        raise Problem(
            "not signed in: there is no API key" + (f" for {base_url}" if base_url else ""),
            exit_code=ExitCode.NOT_SIGNED_IN,
            hint="start a stack here with `weightsmith up` (it writes .weightsmith/credentials.json), "
            "or `weightsmith login`, or set WEIGHTSMITH_BASE_URL and WEIGHTSMITH_API_KEY",
        )
    if found.file is not None:
        return read_credentials(found.file)
    assert found.api_key is not None
    return Credentials((found.base_url or LOCAL).rstrip("/"), found.api_key, found.name)


def chosen(found: list[Place]) -> Place | None:
    """The place that wins: the first with a key. Where an address was named alone, the first with a key for it."""
    address = None
    for place in found:
        if place.complete and (address is None or place.base_url == address):
            return place
        if not place.complete and place.base_url is not None:
            address = place.base_url.rstrip("/")
    return None


def places(base_url: str | None, api_key: str | None, *, start: Path | None = None) -> list[Place]:
    """All places in their order: flags, our variables, OpenAI's, the file of `weightsmith up`, that of `login`."""
    told = client_environment()
    address = base_url or told.get("base_url")
    return [
        Place("flags", address, api_key) if api_key else Place("flags"),
        Place("WEIGHTSMITH_API_KEY", address, told.get("api_key")),
        _openai(told.get("openai_base_url"), told.get("openai_api_key")),
        _in_file(_credentials_file(start or Path.cwd(), told.get("home"))),
        _in_file(user_file() if user_file().is_file() else None, name="weightsmith login"),
    ]


def _openai(base_url: str | None, api_key: str | None) -> Place:
    """Only both together: a key for OpenAI must not come to us by accident."""
    name = "OPENAI_API_KEY with OPENAI_BASE_URL"
    return Place(name, base_url, api_key) if base_url and api_key else Place(name)


def _in_file(file: Path | None, *, name: str = str(CREDENTIALS)) -> Place:
    if file is None:
        return Place(name)
    try:
        found = read_credentials(file)
    except Problem:  # whoever needs it is told
        return Place(str(file), file=file)
    return Place(str(file), found.base_url, found.api_key, file)


def user_file() -> Path:
    """What `weightsmith login` writes."""
    folder = client_environment().get("config_home")
    return (Path(folder) if folder else Path.home() / ".config") / "weightsmith" / FILE


def _credentials_file(start: Path, home: str | None) -> Path | None:
    if home is not None:
        return file if (file := Path(home) / FILE).is_file() else None
    return next((file for folder in (start, *start.parents) if (file := folder / CREDENTIALS).is_file()), None)


def read_credentials(file: Path) -> Credentials:
    try:
        found = json.loads(file.read_text())
        return Credentials(str(found["base_url"]).rstrip("/"), str(found["api_key"]), str(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            f"{file} cannot be used: {error}",
            exit_code=ExitCode.NOT_SIGNED_IN,
            hint="`weightsmith up` or `weightsmith login` writes it anew when it is removed",
        ) from None


def redacted(api_key: str) -> str:
    """As much of a key as may be shown."""
    return f"{api_key[:11]}…" if len(api_key) > 16 else "…"
