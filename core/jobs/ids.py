"""Opaque ids and API keys. Code never parses an id; only a key has parts, so that it can be looked up and checked."""

import hashlib
import secrets
import zlib

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def random_text(length: int) -> str:
    """`length` characters of base 62, from the system's secure source."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(prefix: str) -> str:
    """`prefix` (with its separator: `job_`, `file-`) and 24 characters."""
    return prefix + random_text(24)


def new_key() -> tuple[str, str]:
    """A fresh API key `ws_<id8>_<secret32>_<crc>` and its lookup id. The key is shown once and never stored."""
    lookup, secret = random_text(8), random_text(32)
    body = f"ws_{lookup}_{secret}"
    return f"{body}_{_checksum(body)}", lookup


def key_lookup(key: str) -> str | None:
    """The lookup id inside a key; None when it is malformed or mistyped (the checksum tells without a query)."""
    body, _, checksum = key.rpartition("_")
    parts = body.split("_")
    if len(parts) != 3 or parts[0] != "ws" or checksum != _checksum(body):
        return None
    return parts[1]


def key_hash(key: str) -> str:
    """SHA-256 is enough here: a key has 190 bits of entropy, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
