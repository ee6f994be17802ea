"""Matrices in 8 or 4 bits a weight (Dettmers et al. 2023, arXiv:2305.14314), in numpy: what a value becomes, exactly.

Blocks of 64 weights follow each other row by row; with c the codes and s a block's scale,

    int8   W = s c,      c = round(W / s) in [-127, 127],      s = max |W| / 127
    nf4    W = s q[c],   q[c] the level nearest to W / s,      s = max |W|

The 16 levels of nf4 are quantiles of the normal distribution (the paper's equation 4 and appendix E). With double
quantisation (section 3) the scales are kept in int8, in blocks of 256, after their mean was taken off: here linearly,
where the paper has an 8-bit float.

Legend: O rows (out features), I columns (in features), K blocks.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
BLOCK, SCALES_BLOCK = 64, 256
OFFSET = 0.5 * (1 - 1 / 32 + 1 - 1 / 30)
"""the outermost quantile: halfway between those of 16 and of 15 levels (appendix E)"""


def _normal_levels() -> Array:
    """Ascending from -1 to 1, with an exact zero."""
    normal = NormalDist()
    above = [normal.inv_cdf(OFFSET + (0.5 - OFFSET) * at / 8) for at in range(8)]
    below = [-normal.inv_cdf(OFFSET + (0.5 - OFFSET) * at / 7) for at in range(7)]
    return np.array([*below, 0.0, *reversed(above)], np.float32) / np.float32(above[0])


LEVELS = _normal_levels()


@dataclass(frozen=True)
class Int8Blocks:
    """A byte a value, and an fp32 scale a block."""

    codes: NDArray[np.int8]
    """[K, block]"""
    scales_K: Array
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: Array, *, block: int = BLOCK) -> "Int8Blocks":
        blocks = _in_blocks(values, block)
        scales_K = np.abs(blocks).max(1) / np.float32(127)
        return cls(np.rint(blocks / _nonzero(scales_K)[:, None]).astype(np.int8), scales_K, values.shape)

    def dense(self) -> Array:
        """The values that the codes stand for."""
        return _out_of_blocks(self.codes * self.scales_K[:, None], self.shape)


@dataclass(frozen=True)
class NormalFloat4Blocks:
    """Half a byte a value, the first of a pair in the upper half; an fp32 scale a block, or a byte for it."""

    pairs: NDArray[np.uint8]
    """[K, 32]"""
    scales: Array | Int8Blocks
    """[K]"""
    scales_mean: np.float32
    """what was taken off before the scales were quantised; else 0"""
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: Array, *, double: bool) -> "NormalFloat4Blocks":
        blocks = _in_blocks(values, BLOCK)
        scales_K = np.abs(blocks).max(1)
        mean = np.float32(np.mean(scales_K, dtype=np.float64) if double else 0)
        scales = Int8Blocks.of(scales_K - mean, block=SCALES_BLOCK) if double else scales_K
        fractions = blocks / _nonzero(_scales(scales, mean))[:, None]
        codes = np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, fractions).astype(np.uint8)
        pairs = codes[:, 0::2] * np.uint8(16) + codes[:, 1::2]
        return cls(pairs.astype(np.uint8), scales, mean, values.shape)

    def dense(self) -> Array:
        """The values that the codes stand for."""
        codes = np.stack((self.pairs >> 4, self.pairs & 15), -1).reshape(len(self.pairs), -1)
        return _out_of_blocks(LEVELS[codes] * _scales(self.scales, self.scales_mean)[:, None], self.shape)


def quantise(values: Array, kind: Literal["int8", "nf4"], *, double: bool) -> Int8Blocks | NormalFloat4Blocks:
    return Int8Blocks.of(values) if kind == "int8" else NormalFloat4Blocks.of(values, double=double)


def _scales(scales: Array | Int8Blocks, mean: np.float32) -> Array:
    return scales.dense() + mean if isinstance(scales, Int8Blocks) else scales


def _in_blocks(values: Array, size: int) -> Array:
    """The last block is filled up with zeros."""
    flat = values.ravel()
    return np.pad(flat, (0, -len(flat) % size)).reshape(-1, size)


def _out_of_blocks(blocks: Array, shape: tuple[int, ...]) -> Array:
    return blocks.ravel()[: int(np.prod(shape))].reshape(shape)


def _nonzero(scales_K: Array) -> Array:
    return np.where(scales_K == 0, np.float32(1), scales_K)
