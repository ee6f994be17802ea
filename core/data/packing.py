"""Which tokens stand in which training row: a table of pieces (document, start, length), computed from lengths alone.

A row has T inputs; the input at position t predicts the token after it *in its document*, so a document of n tokens has
n - 1 inputs and the last token is only ever a target. Nothing is predicted across documents.

    cut    divisible documents (text): laid end to end in an order drawn from the seed, cut every T inputs; a document
           goes on in the next row
    fit    whole examples (conversations): best-fit decreasing, several a row; what is longer than T is cut off
    none   one example a row; a divisible document goes on in rows of its own

Best-fit packing: Ding et al. 2024, arXiv:2404.10830, section 2.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.data.token_dataset import TokenDataset

Packing = Literal["documents", "none"]
Ints = NDArray[np.int64]
EXAMPLES_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Rows:
    """Pieces of row r are `first[r]` to `first[r + 1]` of the three parallel arrays."""

    document: Ints
    start: Ints
    length: Ints
    first: Ints
    supervised: int
    """targets with a weight"""
    truncated: int = 0
    """examples of which the end was cut off"""
    dropped: int = 0
    """examples without a supervised token, or with none left after cutting"""

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def num_tokens(self) -> int:
        """Inputs, padding excluded."""
        return int(self.length.sum())


def pack(dataset: TokenDataset, *, length: int, packing: Packing, seed: int) -> Rows:
    """Lay the dataset's examples into rows of `length` inputs."""
    inputs = np.diff(dataset.offsets) - 1
    if dataset.meta.divisible:
        documents = shuffled(len(inputs), seed)
        documents = documents[inputs[documents] > 0]
        return _cut(documents, inputs, length) if packing == "documents" else _pieces(documents, inputs, length)
    return _fit(dataset, inputs, length, seed, share=packing == "documents")


def shuffled(count: int, seed: int, epoch: int = 0, *, stream: int = 0) -> Ints:
    """A permutation that depends on its arguments alone; `stream` keeps the uses of one seed apart.

    Sorted raw Philox output, because numpy promises the same bits for ever only for bit generators (NEP 19).
    """
    raw = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64)


def _cut(documents: Ints, inputs: Ints, length: int) -> Rows:
    """A piece ends where its document or its row ends."""
    ends = np.cumsum(inputs[documents])
    total = int(ends[-1]) if len(ends) else 0
    row_starts = np.arange(0, total, length)
    begins = np.union1d(np.concatenate([[0], ends[:-1]]) if len(ends) else ends, row_starts).astype(np.int64)
    at = np.searchsorted(ends, begins, side="right")
    return Rows(
        document=documents[at],
        start=begins - (ends[at] - inputs[documents[at]]),
        length=np.diff(np.append(begins, total)),
        first=np.append(np.searchsorted(begins, row_starts), len(begins)),
        supervised=total,
    )


def _pieces(documents: Ints, inputs: Ints, length: int) -> Rows:
    """Each document in rows of its own."""
    counts = -(-inputs[documents] // length)
    document = np.repeat(documents, counts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = nth * length
    lengths = np.minimum(length, inputs[document] - start)
    return Rows(document, start, lengths, np.arange(len(document) + 1), supervised=int(lengths.sum()))


def _fit(dataset: TokenDataset, inputs: Ints, length: int, seed: int, *, share: bool) -> Rows:
    kept = np.minimum(inputs, length)
    supervised = _supervised_within(dataset, kept)
    learns = supervised > 0
    order = shuffled(len(inputs), seed)
    order = order[learns[order]]
    truncated = int((inputs[order] > length).sum())
    if share:
        order = order[np.argsort(-kept[order], kind="stable")]
        rows = _best_fit(kept[order], length)
        by_row = np.argsort(rows, kind="stable")
        order, sizes = order[by_row], np.bincount(rows)
    else:
        sizes = np.ones(len(order), np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    dropped = int((~learns).sum())
    return Rows(order, np.zeros_like(order), kept[order], first, int(supervised.sum()), truncated, dropped)


def _best_fit(lengths: Ints, capacity: int) -> Ints:
    """The row of each item, when each goes where the least room is left over.

    `open_rows[room]` lists the rows with that much room; `rooms` has bit `room` set where the list is not empty, so the
    least sufficient room is the lowest bit at or above the item's length.
    """
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = num_rows = 0
    rows = np.empty(len(lengths), np.int64)
    for item, needed in enumerate(lengths.tolist()):
        fitting = rooms >> needed
        if fitting:
            room = needed + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, num_rows
            num_rows += 1
        rows[item] = row
        open_rows[room - needed].append(row)
        rooms |= 1 << (room - needed)
    return rows


def _supervised_within(dataset: TokenDataset, inputs: Ints) -> Ints:
    """Of each example, how many of the targets of its first `inputs` inputs have a weight."""
    if dataset.weights is None:
        return inputs
    found = np.zeros(len(inputs), np.int64)
    for begin in range(0, len(inputs), EXAMPLES_AT_ONCE):  # not all at once: the weights may not fit in memory
        end = min(begin + EXAMPLES_AT_ONCE, len(inputs))
        offsets = dataset.offsets[begin : end + 1]
        counts = np.concatenate([[0], np.cumsum(dataset.weights[offsets[0] : offsets[-1]], dtype=np.int64)])
        first = offsets[:-1] - offsets[0] + 1
        filled = inputs[begin:end] > 0
        last = np.where(filled, first + inputs[begin:end], 0)
        found[begin:end] = counts[last] - counts[np.where(filled, first, 0)]
    return found
