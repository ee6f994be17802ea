"""Ids for the shell's TAB: from a file that is at most a minute old, or from the service if it answers at once.

The file is kept per folder, because the folder decides which service is spoken to.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

KEPT_SECONDS = 60.0
NETWORK_SECONDS = 0.3
SHOWN = 100
Words = list[tuple[str, str]]


def complete_jobs(incomplete: str) -> Words:
    """Marks and ids of the newest jobs, each with its state."""
    marks = [("@last", "the newest job"), ("@running", "what runs")]
    return _fitting(
        [*marks, *_known("jobs", lambda job: (job["id"], f"{job['state']} {job.get('model') or ''}"))], incomplete
    )


def complete_models(incomplete: str) -> Words:
    """Models and aliases."""

    def words(model: Any) -> tuple[str, str]:
        return model["id"], " ".join(model.get("aliases") or ())

    known = _known("models", words)
    aliases = [(alias, f"alias of {name}") for name, said in known for alias in said.split()]
    return _fitting([("@last", "the newest model"), *aliases, *known], incomplete)


def complete_files(incomplete: str) -> Words:
    return _fitting(_known("files", lambda file: (file["id"], file["filename"])), incomplete)


def complete_tokenizers(incomplete: str) -> Words:
    return _fitting(_known("tokenizers", lambda row: (row["id"], f"{row['vocab_size']} tokens")), incomplete)


def complete_keys(incomplete: str) -> Words:
    return _fitting(_known("keys", lambda key: (key["id"], key["name"])), incomplete)


def _fitting(words: Words, incomplete: str) -> Words:
    return [(word, help.strip()) for word, help in words if word.startswith(incomplete)]


def _known(what: str, word: Callable[[Any], tuple[str, str]]) -> Words:
    """What there is of a kind; nothing where nobody can say so at once: a TAB shows no errors."""
    file = _cache_file(what)
    try:
        if 0 <= time.time() - file.stat().st_mtime < KEPT_SECONDS:
            return [(id, help) for id, help in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        pass
    try:
        found = list(map(word, _asked(what)))
    except Exception:
        return []
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(json.dumps(found), encoding="utf-8")
    except OSError:
        pass
    return found


def _asked(what: str) -> Iterator[Any]:
    from cli.client import Client
    from cli.credentials import find_credentials

    with closing(Client(find_credentials(None, None))) as client:
        limit = {"limit": SHOWN} if what in ("jobs", "files", "tokenizers") else None
        page = client.request("GET", what, params=limit, timeout=NETWORK_SECONDS).json()
        yield from page["data"]


def _cache_file(what: str) -> Path:
    folder = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:16]
    return Path.home() / ".cache" / "weightsmith" / f"{folder}-{what}.json"
