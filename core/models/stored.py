"""How one tensor of ours lies in a Hugging Face file, and how a family says so for all of its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stored:
    """The tensor is, or is a part of, the file's tensor of one of these names."""

    names: tuple[str, ...]
    """the first is written; all are looked for, in this order"""
    part: tuple[int, int] = (0, 1)
    """(i, n): part i of n equal parts of its rows"""
    transposed: bool = False
    """matrices only"""
    has_leading_one: bool = False
    """it has one dimension more, of size 1"""

    def renamed(self, rename: Callable[[str], str], *, is_matrix: bool) -> "Stored":
        return replace(self, names=tuple(map(rename, self.names)), transposed=self.transposed and is_matrix)


def under(prefixes: tuple[str, ...], modules: Mapping[str, str | Stored]) -> dict[str, Stored]:
    """Ours (modules or single parameters) by the file's names, each below any of the prefixes; the first is written."""

    def stored(theirs: str | Stored) -> Stored:
        theirs = Stored((theirs,)) if isinstance(theirs, str) else theirs
        return replace(theirs, names=tuple(prefix + name for prefix in prefixes for name in theirs.names))

    return {ours: stored(theirs) for ours, theirs in modules.items()}


def plain(modules: Mapping[str, str | Stored]) -> dict[str, Stored]:
    """As `under`, without a prefix."""
    return under(("",), modules)
