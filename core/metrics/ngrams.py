"""Runs of n items and how many two texts share."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def ngrams(items: Sequence[Any], n: int) -> Counter[Any]:
    """Each run of `n` items (a string of characters, or a tuple of words) and how often it occurs."""
    if isinstance(items, str):
        return Counter(items[i : i + n] for i in range(len(items) - n + 1))
    return Counter(zip(*(items[i:] for i in range(n)), strict=False))


def shared(one: Counter[Any], other: Counter[Any]) -> int:
    """How many occurrences find a partner on the other side."""
    few, many = (one, other) if len(one) < len(other) else (other, one)
    return sum(min(count, many[gram]) for gram, count in few.items() if gram in many)
