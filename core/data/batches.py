"""Rows as tensors. What stands in a batch is a pure function of (seed, step): a run resumes by naming a step.

Legend: B rows, T positions, E examples of a row, C labels of an example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.mixture import Mixture
from core.data.packing import NEXT, Ints, Packing, Predicts, Rows, pack
from core.data.token_dataset import TokenDataset

NOISE = 1 << 30
"""stream of a row's random numbers"""
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Piece:
    """The inputs of one example in one lane of a row, as views into the row."""

    ids: Ints
    targets: Ints
    weights: NDArray[np.float32]


Corrupt = Callable[[Piece, np.random.Generator], None]
"""Changes a piece in place: hides tokens that are to be guessed, moves the border of what is learned."""


@dataclass(frozen=True)
class Lane:
    """`targets[b, t]` is what is learned at `ids[b, t]`; weight 0 at padding and where nothing is learned."""

    ids_BT: Tensor
    """int64"""
    targets_BT: Tensor
    """int64"""
    weights_BT: Tensor
    """float32"""
    positions_BT: Tensor
    """int64, from 0 in each segment"""
    segments_BT: Tensor
    """int64: 1, 2, … for the examples of a row, 0 for padding; a position may only attend to its own segment. The same
    example has the same number in every lane"""

    def rows(self, rows: slice, *, device: torch.device | str = "cpu", whole: bool = False) -> "Lane":
        """Some rows, without the padding that all of them have at the end, unless they are wanted `whole`."""
        longest = self.ids_BT.shape[1] if whole else int((self.segments_BT[rows] > 0).sum(1).max())
        return Lane(*(getattr(self, field.name)[rows, :longest].to(device) for field in fields(self)))


@dataclass(frozen=True)
class RowBatch:
    """Rows of one or several lanes. `labels_BEC[b, e]` belongs to segment e + 1 of row b."""

    lanes: tuple[Lane, ...]
    labels_BEC: Tensor
    """float32; 0 behind a row's last example"""
    documents_BE: Tensor
    """int64: which example, numbered through all datasets; -1 behind a row's last"""
    drawn_logp_BT: Tensor | None = None
    """float32: of targets that the model drew itself, their log-probability then (the first lane's)"""

    def __len__(self) -> int:
        return len(self.documents_BE)

    def rows(self, rows: slice, *, device: torch.device | str = "cpu", whole: bool = False) -> "RowBatch":
        """Some rows, on a device. `whole`: with the padding at their end, so that all have one shape."""
        lanes = tuple(lane.rows(rows, device=device, whole=whole) for lane in self.lanes)
        drawn_BT = self.drawn_logp_BT
        return replace(
            self,
            lanes=lanes,
            drawn_logp_BT=None if drawn_BT is None else drawn_BT[rows, : lanes[0].ids_BT.shape[1]].to(device),
            labels_BEC=self.labels_BEC[rows].to(device),
            documents_BE=self.documents_BE[rows],
        )

    @property
    def num_tokens(self) -> int:
        """Inputs of all lanes, padding excluded."""
        return sum(int((lane.segments_BT > 0).sum()) for lane in self.lanes)


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
        predicts: Predicts = NEXT,
        corrupt: Corrupt | None = None,
    ) -> None:
        self.datasets, self.length, self.sequences = list(datasets), length, sequences
        self.seed, self.predicts, self.corrupt = seed, predicts, corrupt
        rows = [pack(dataset, length=length, packing=packing, seed=seed, predicts=predicts) for dataset in datasets]
        self.mixture = Mixture(rows, weights, seed=seed)
        self.num_rows = self.mixture.num_rows
        self._first_document = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        if self.num_rows == 0:
            raise ValueError("the datasets have no row to train on")

    def batch(self, step: int, *, total_rows: int | None = None) -> RowBatch:
        """The batch of optimizer step `step` (from 0). With `total_rows`, the last one may be short."""
        places = [
            Place(
                self.datasets[source],
                self.mixture.rows[source],
                row,
                noise=(self.seed, i),
                first_document=int(self._first_document[source]),
            )
            for i, source, row in self._chosen(step, total_rows)
        ]
        return _row_batch(places, self.length, self.predicts, self.corrupt)

    def documents(self, step: int) -> list[int]:
        """Which examples stand in that batch, numbered through all datasets one after the other."""
        found: set[int] = set()
        for _, source, row in self._chosen(step, None):
            rows = self.mixture.rows[source]
            pieces = rows.document[rows.first[row] : rows.first[row + 1]]
            found.update(int(d) for d in pieces + self._first_document[source])
        return sorted(found)

    def _chosen(self, step: int, total_rows: int | None) -> list[tuple[int, int, int]]:
        """(number of the row in the whole run, dataset, row)."""
        begin = step * self.sequences
        end = begin + self.sequences if total_rows is None else min(begin + self.sequences, total_rows)
        if end <= begin:
            raise ValueError(f"step {step} is past the end: there are {total_rows} rows, {self.sequences} a step")
        return [(i, *self.mixture[i]) for i in range(begin, end)]


def validation_batches(
    dataset: TokenDataset,
    *,
    length: int,
    packing: Packing,
    sequences: int,
    predicts: Predicts = NEXT,
    corrupt: Corrupt | None = None,
) -> Iterator[RowBatch]:
    """Every row once, in the same order and with the same noise every time."""
    rows = pack(dataset, length=length, packing=packing, seed=0, predicts=predicts)
    for begin in range(0, len(rows), sequences):
        chosen = range(begin, min(begin + sequences, len(rows)))
        places = [Place(dataset, rows, row, noise=(VALIDATION_SEED, row)) for row in chosen]
        yield _row_batch(places, length, predicts, corrupt)


@dataclass(frozen=True)
class Place:
    """A row of a dataset."""

    dataset: TokenDataset
    rows: Rows
    row: int
    noise: tuple[int, int]
    """what decides the random numbers that it is corrupted with"""
    first_document: int = 0
    """number of the dataset's first example among those of all datasets"""

    @property
    def pieces(self) -> range:
        return range(int(self.rows.first[self.row]), int(self.rows.first[self.row + 1]))


def _row_batch(places: Sequence[Place], length: int, predicts: Predicts, corrupt: Corrupt | None) -> RowBatch:
    lanes = [_Lane.zeros(len(places), length) for _ in predicts]
    most = max(len(place.pieces) for place in places)
    labels_BEC = np.zeros((len(places), most, places[0].dataset.meta.num_labels), np.float32)
    documents_BE = np.full((len(places), most), -1, np.int64)
    for b, place in enumerate(places):
        for lane, kind in enumerate(predicts):
            _fill(lanes[lane], b, lane, place, corrupt, ahead=kind == "next")
        here = slice(0, len(place.pieces))
        documents = place.rows.document[place.pieces.start : place.pieces.stop]
        documents_BE[b, here] = documents + place.first_document
        labels_BEC[b, here] = place.dataset.labels[documents]
    return RowBatch(
        tuple(lane.as_tensors() for lane in lanes), torch.from_numpy(labels_BEC), torch.from_numpy(documents_BE)
    )


@dataclass(frozen=True)
class _Lane:
    """A `Lane` while it is filled, in numpy."""

    ids_BT: Ints
    targets_BT: Ints
    weights_BT: NDArray[np.float32]
    positions_BT: Ints
    segments_BT: Ints

    @classmethod
    def zeros(cls, rows: int, length: int) -> "_Lane":
        return cls(*(np.zeros((rows, length), np.float32 if i == 2 else np.int64) for i in range(5)))

    def as_tensors(self) -> Lane:
        return Lane(*(torch.from_numpy(getattr(self, field.name)) for field in fields(self)))


def _fill(into: _Lane, b: int, lane: int, place: Place, corrupt: Corrupt | None, *, ahead: bool) -> None:
    """Copy the lane's pieces, one after the other. `ahead`: the target of an input is the token after it."""
    dataset, rows = place.dataset, place.rows
    starts = dataset.starts(lane)
    learned = dataset.ids if dataset.targets is None else dataset.targets
    random = np.random.Generator(np.random.Philox(key=place.noise, counter=[0, 0, lane, NOISE]))
    at = 0
    for segment, piece in enumerate(place.pieces, start=1):
        size = int(rows.length[piece, lane])
        begin = int(starts[rows.document[piece]] + rows.start[piece])
        here, there = slice(at, at + size), slice(begin + ahead, begin + ahead + size)
        into.ids_BT[b, here] = dataset.ids[begin : begin + size]
        into.targets_BT[b, here] = learned[there]
        into.weights_BT[b, here] = 1.0 if dataset.weights is None else dataset.weights[there]
        into.positions_BT[b, here] = np.arange(size)
        into.segments_BT[b, here] = segment
        if corrupt is not None:
            corrupt(Piece(into.ids_BT[b, here], into.targets_BT[b, here], into.weights_BT[b, here]), random)
        at += size
