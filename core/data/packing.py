"""Which tokens stand in which training row: a table of pieces (document, start, length), computed from lengths alone.

A row has T inputs in each of its lanes. Where a lane predicts the `next` token, the input at position t has as its
target the token after it *in its document*, so a document of n tokens has n - 1 inputs and the last token is only ever
a target; nothing is predicted across documents. Where it predicts the `same` position (an encoder), n tokens are n
inputs.

    cut    divisible documents (text): laid end to end in an order drawn from the seed, cut every T inputs; a document
           goes on in the next row
    fit    whole examples (conversations): best-fit decreasing, several a row; what is longer than T is cut off
    none   one example a row; a divisible document goes on in rows of its own

Best-fit packing: Ding et al. 2024, arXiv:2404.10830, section 2. The lanes of an example stand in the same row, so the
longest one decides where it fits.

Legend: E examples, L lanes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.data.token_dataset import TokenDataset

Packing = Literal["documents", "none"]
Predicts = tuple[Literal["next", "same"], ...]
"""by lane: what the target of an input is"""
NEXT: Predicts = ("next",)
SAME: Predicts = ("same",)
Ints = NDArray[np.int64]
EXAMPLES_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Rows:
    """Pieces of row r are `first[r]` to `first[r + 1]` of the three parallel arrays."""

    document: Ints
    start: Ints
    """inputs of the document that stand in earlier rows; in every lane (a divisible document has one)"""
    length: Ints
    """[pieces, lanes], inputs"""
    first: Ints
    supervised: int
    """targets with a weight, or labelled examples"""
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


def pack(dataset: TokenDataset, *, length: int, packing: Packing, seed: int, predicts: Predicts = NEXT) -> Rows:
    """Lay the dataset's examples into rows of `length` inputs."""
    if dataset.meta.divisible:
        inputs = dataset.lengths() - (predicts == NEXT)
        documents = shuffled(len(inputs), seed)
        documents = documents[inputs[documents] > 0]
        return _cut(documents, inputs, length) if packing == "documents" else _pieces(documents, inputs, length)
    return _fit(dataset, length, seed, predicts, share=packing == "documents")


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
        length=np.diff(np.append(begins, total))[:, None],
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
    return Rows(document, start, lengths[:, None], np.arange(len(document) + 1), supervised=int(lengths.sum()))


def _fit(dataset: TokenDataset, length: int, seed: int, predicts: Predicts, *, share: bool) -> Rows:
    inputs_EL = np.stack([dataset.lengths(lane) - (kind == "next") for lane, kind in enumerate(predicts)], 1)
    kept_EL = np.minimum(inputs_EL, length)
    supervised = _supervised_within(dataset, kept_EL, predicts)
    learns = supervised > 0
    order = shuffled(len(inputs_EL), seed)
    order = order[learns[order]]
    truncated = int((inputs_EL[order] > length).any(1).sum())
    if share:
        sizes_E = kept_EL.max(1)
        order = order[np.argsort(-sizes_E[order], kind="stable")]
        rows = _best_fit(sizes_E[order], length)
        by_row = np.argsort(rows, kind="stable")
        order, sizes = order[by_row], np.bincount(rows)
    else:
        sizes = np.ones(len(order), np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    dropped = int((~learns).sum())
    return Rows(order, np.zeros_like(order), kept_EL[order], first, int(supervised.sum()), truncated, dropped)


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


def _supervised_within(dataset: TokenDataset, inputs_EL: Ints, predicts: Predicts) -> Ints:
    """Of each example, how many targets of its first inputs have a weight; none where a lane that predicts has none.

    Where no token is a target of its own (a labelled text), every example that has inputs counts once.
    """
    counts = [
        _weights_within(dataset, lane, inputs_EL[:, lane], ahead=kind == "next")
        for lane, kind in enumerate(predicts)
        if kind == "next" or dataset.targets is not None
    ]
    if not counts:
        return np.asarray((inputs_EL > 0).all(1), np.int64)
    stacked = np.stack(counts, 1)
    return np.where((stacked > 0).all(1), stacked.sum(1), 0)


def _weights_within(dataset: TokenDataset, lane: int, inputs_E: Ints, *, ahead: bool) -> Ints:
    """Of each example, how many of the targets of its first `inputs_E` inputs have a weight."""
    if dataset.weights is None:
        return np.maximum(inputs_E, 0)
    found = np.zeros(len(inputs_E), np.int64)
    starts, lanes = dataset.starts(lane), dataset.meta.num_lanes
    for begin in range(0, len(inputs_E), EXAMPLES_AT_ONCE):  # not all at once: the weights may not fit in memory
        end = min(begin + EXAMPLES_AT_ONCE, len(inputs_E))
        low, high = dataset.offsets[begin * lanes], dataset.offsets[end * lanes]
        counts = np.concatenate([[0], np.cumsum(dataset.weights[low:high], dtype=np.int64)])
        filled = inputs_E[begin:end] > 0
        first = np.where(filled, starts[begin:end] - low + ahead, 0)
        found[begin:end] = counts[first + np.where(filled, inputs_E[begin:end], 0)] - counts[first]
    return found
