"""Rows as tensors. What stands in a batch is a pure function of (seed, step): a run resumes by naming a step.

Legend: B rows, T positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.mixture import Mixture
from core.data.packing import Ints, Packing, Rows, pack
from core.data.token_dataset import TokenDataset


@dataclass(frozen=True)
class RowBatch:
    """`targets[b, t]` follows `ids[b, t]` in its document; weight 0 at padding and where it must not be learned."""

    ids_BT: Tensor
    """int64"""
    targets_BT: Tensor
    """int64"""
    weights_BT: Tensor
    """float32"""
    positions_BT: Tensor
    """int64, from 0 in each segment"""
    segments_BT: Tensor
    """int64: 1, 2, … for the documents of a row, 0 for padding; a position may only attend to its own segment"""


class Batches:
    """Training batches of `sequences` rows of `length` positions."""

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        weights: Sequence[float],
        *,
        length: int,
        packing: Packing,
        sequences: int,
        seed: int,
    ) -> None:
        self.datasets, self.length, self.sequences = list(datasets), length, sequences
        rows = [pack(dataset, length=length, packing=packing, seed=seed) for dataset in datasets]
        self.mixture = Mixture(rows, weights, seed=seed)
        self.num_rows = self.mixture.num_rows
        self._first_document = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        if self.num_rows == 0:
            raise ValueError("the datasets have no row to train on")

    def batch(self, step: int, *, total_rows: int | None = None) -> RowBatch:
        """The batch of optimizer step `step` (from 0). With `total_rows`, the last one may be short."""
        places = [(self.datasets[s], self.mixture.rows[s], r) for s, r in self._chosen(step, total_rows)]
        return _row_batch(places, self.length)

    def documents(self, step: int) -> list[int]:
        """Which examples stand in that batch, numbered through all datasets one after the other."""
        found: set[int] = set()
        for source, row in self._chosen(step, None):
            rows = self.mixture.rows[source]
            pieces = rows.document[rows.first[row] : rows.first[row + 1]]
            found.update(int(d) for d in pieces + self._first_document[source])
        return sorted(found)

    def _chosen(self, step: int, total_rows: int | None) -> list[tuple[int, int]]:
        begin = step * self.sequences
        end = begin + self.sequences if total_rows is None else min(begin + self.sequences, total_rows)
        if end <= begin:
            raise ValueError(f"step {step} is past the end: there are {total_rows} rows, {self.sequences} a step")
        return [self.mixture[i] for i in range(begin, end)]


def validation_batches(dataset: TokenDataset, *, length: int, packing: Packing, sequences: int) -> Iterator[RowBatch]:
    """Every row once, in the same order every time."""
    rows = pack(dataset, length=length, packing=packing, seed=0)
    for begin in range(0, len(rows), sequences):
        chosen = range(begin, min(begin + sequences, len(rows)))
        yield _row_batch([(dataset, rows, r) for r in chosen], length)


def _row_batch(places: Sequence[tuple[TokenDataset, Rows, int]], length: int) -> RowBatch:
    shape = (len(places), length)
    ids, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weights = np.zeros(shape, np.float32)
    positions, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for b, (dataset, rows, row) in enumerate(places):
        _fill(dataset, rows, row, ids[b], targets[b], weights[b], positions[b], segments[b])
    return RowBatch(*(torch.from_numpy(array) for array in (ids, targets, weights, positions, segments)))


def _fill(
    dataset: TokenDataset,
    rows: Rows,
    row: int,
    ids: Ints,
    targets: Ints,
    weights: NDArray[np.float32],
    positions: Ints,
    segments: Ints,
) -> None:
    """Copy the row's pieces, one after the other."""
    at = 0
    for segment, piece in enumerate(range(int(rows.first[row]), int(rows.first[row + 1])), start=1):
        size = int(rows.length[piece])
        begin = int(dataset.offsets[rows.document[piece]] + rows.start[piece])
        here = slice(at, at + size)
        ids[here] = dataset.ids[begin : begin + size]
        targets[here] = dataset.ids[begin + 1 : begin + size + 1]
        weights[here] = 1.0 if dataset.weights is None else dataset.weights[begin + 1 : begin + size + 1]
        positions[here] = np.arange(size)
        segments[here] = segment
        at += size
