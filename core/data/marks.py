"""Keeps special tokens that a user wrote apart from those that a chat template writes.

Before rendering, the first character of each special token in the user's strings is exchanged for a private-use
character that stands nowhere else; in the text that comes out, whatever reads as a special token is the template's own.
Afterwards the characters are put back. One character for one, so a template that measures, trims or splits its input
notices nothing. A string that ends with the beginning of a special token is marked there too, because the next string
could complete it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

PRIVATE_USE = range(0xF0000, 0xFFFFE)


class Marks:
    def __init__(self, specials: "SpecialStrings", taken: str) -> None:
        self._specials = specials
        free = (character for code in PRIVATE_USE if (character := chr(code)) not in taken)
        self._on = {first: next(free) for first in specials.firsts}
        self._off = str.maketrans({mark: first for first, mark in self._on.items()})

    def on(self, value: Any) -> Any:
        """The same value with every string marked, keys included."""
        if isinstance(value, str):
            return self._on_text(value)
        if isinstance(value, dict):
            return {self._on_text(key): self.on(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.on(item) for item in value]
        return value

    def off(self, text: str) -> str:
        return text.translate(self._off)

    def _on_text(self, text: str) -> str:
        text = self._specials.pattern.sub(lambda match: self._on[match.group()[0]] + match.group()[1:], text)
        at = self._specials.unfinished(text)
        return text if at is None else text[:at] + self._on[text[at]] + text[at + 1 :]


class SpecialStrings:
    """The special tokens of one tokenizer, for searching."""

    def __init__(self, names: tuple[str, ...]) -> None:
        longest_first = sorted(names, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.firsts = sorted({name[0] for name in names})
        self._beginnings = frozenset(name[:size] for name in names for size in range(1, len(name)))
        self._longest = max(map(len, names), default=0)

    def unfinished(self, text: str) -> int | None:
        """Where the text's last special token begins, if its end is missing (white space at the end aside)."""
        end = len(text.rstrip())
        for first in self.firsts:
            at = text.find(first, max(0, end - self._longest), end)
            while at >= 0:
                if text[at:end] in self._beginnings:
                    return at
                at = text.find(first, at + 1, end)
        return None


@lru_cache(maxsize=8)
def special_strings(names: tuple[str, ...]) -> SpecialStrings:
    return SpecialStrings(names)


def marks_for(specials: Mapping[str, int], template: str, *values: object) -> Marks | None:
    """None where no string holds a special token or the beginning of one at its end: nearly always."""
    known = special_strings(tuple(specials))
    strings = list(_strings(values))
    if any(known.pattern.search(text) or known.unfinished(text) is not None for text in strings):
        return Marks(known, "".join([template, *strings]))
    return None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
