"""What the names of tags say of chunks: B-NP begins a noun phrase, I-NP goes on with it, O is outside of all.

I O B (Ramshaw and Marcus 1995), with E at the last word and S at one that stands alone (also written L and U).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

OUTSIDE = "O"
_PREFIXED = re.compile(r"([BIESLU])[-_](.+)")


@dataclass(frozen=True)
class Tag:
    kind: str | None
    """of the chunk; None outside of all"""
    opens: bool = False
    """a chunk always begins here"""
    closes: bool = False
    """a chunk always ends here"""


@dataclass(frozen=True)
class Chunk:
    """Words `first` to `last`, inclusive."""

    kind: str
    first: int
    last: int


def read_tag(name: str, names: Sequence[str]) -> Tag:
    """`names`: all that there are. Where one has no prefix, none has a meaning: each word is a chunk of its own."""
    if name == OUTSIDE:
        return Tag(None)
    match = _PREFIXED.fullmatch(name) if _have_prefixes(tuple(names)) else None
    if match is None:
        return Tag(name, opens=True, closes=True)
    prefix, kind = match.groups()
    return Tag(kind, opens=prefix in "BSU", closes=prefix in "ESLU")


def chunks(tags: Sequence[Tag]) -> Iterator[Chunk]:
    """In order, as the evaluation of CoNLL-2000 reads tags: a chunk begins at a tag that opens one, after one that
    closes one, and where the kind changes."""
    first = 0
    for at, tag in enumerate(tags):
        after = tags[at + 1] if at + 1 < len(tags) else Tag(None)
        if tag.kind is not None and (tag.closes or after.opens or after.kind != tag.kind):
            yield Chunk(tag.kind, first, at)
            first = at + 1
        elif tag.kind is None:
            first = at + 1


@lru_cache(maxsize=16)
def _have_prefixes(names: tuple[str, ...]) -> bool:
    return all(name == OUTSIDE or _PREFIXED.fullmatch(name) for name in names)
