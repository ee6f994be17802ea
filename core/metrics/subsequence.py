"""The longest common subsequence, and the similarity that follows from it."""

from collections.abc import Hashable, Sequence


def longest_common_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Its length. The table's columns are the bits of one integer: a step of the other sequence is one addition.

    Hyyrö 2004, "Bit-Parallel LCS-length Computation Revisited".
    """
    short, long = (one, other) if len(one) < len(other) else (other, one)
    where: dict[Hashable, int] = {}
    for i, item in enumerate(short):
        where[item] = where.get(item, 0) | 1 << i
    all_ones = (1 << len(short)) - 1
    rows = all_ones
    for item in long:
        found = rows & where.get(item, 0)
        if found:
            rows = ((rows + found) | (rows - found)) & all_ones
    return len(short) - rows.bit_count()


def similarity(one: str, other: str) -> float:
    """Twice the longest common subsequence over both lengths: 1 for equal texts, 0 for those that share nothing.

    This is one minus the normalised edit distance with insertions and deletions only.
    """
    total = len(one) + len(other)
    return 2 * longest_common_subsequence(one, other) / total if total else 1.0
