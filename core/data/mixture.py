"""The order of training rows: which row of which dataset stands at global row i. A pure function of (seed, i).

Row i belongs to epoch i // num_rows and is drawn through that epoch's permutation. A source of weight w shows its rows
w times an epoch; of the fraction that is left, each epoch draws a fresh subset.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from core.data.packing import Ints, Rows, shuffled

ORDER, SUBSET = 1, 2
"""streams of `shuffled`"""


class Mixture:
    """`mixture[i]` is (dataset, row)."""

    def __init__(self, rows: Sequence[Rows], weights: Sequence[float], *, seed: int) -> None:
        self.rows, self.seed = list(rows), seed
        self._whole = [int(weight) for weight in weights]
        self._part = [_part(weight, len(r)) for weight, r in zip(weights, self.rows, strict=True)]
        self.shown = [whole * len(r) + part for whole, part, r in zip(self._whole, self._part, self.rows, strict=True)]
        """rows an epoch shows of each dataset"""
        self.num_rows = sum(self.shown)
        self._places = lru_cache(maxsize=2)(self._place_rows)

    def __getitem__(self, i: int) -> tuple[int, int]:
        epoch, place = divmod(i, self.num_rows)
        sources, numbers = self._places(epoch)
        return int(sources[place]), int(numbers[place])

    def _place_rows(self, epoch: int) -> tuple[Ints, Ints]:
        """Dataset and row at each place of the epoch."""
        sources, numbers = [], []
        for source, rows in enumerate(self.rows):
            fresh = shuffled(len(rows), self.seed, epoch, stream=SUBSET + source)[: self._part[source]]
            sources.append(np.full(self.shown[source], source))
            numbers.append(np.concatenate([np.tile(np.arange(len(rows)), self._whole[source]), fresh]))
        order = shuffled(self.num_rows, self.seed, epoch, stream=ORDER)
        return np.concatenate(sources)[order], np.concatenate(numbers)[order]


def _part(weight: float, num_rows: int) -> int:
    """Rows of the subset; a source that is asked for shows at least one row."""
    part = round((weight - int(weight)) * num_rows)
    return min(1, num_rows) if weight < 1 and part == 0 else part
