"""Random numbers from the raw bits of a generator. numpy promises the same bits for ever only for those (NEP 19), and a
resumed run must draw what it would have drawn."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from core.data.packing import Ints


def generator_for(seed: int, content: bytes, *, stream: int = 0) -> np.random.Generator:
    """One that depends on the arguments alone: what is done to a text does not depend on where it stands in a file."""
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=[seed, digest], counter=[0, 0, 0, stream]))


def uniforms(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """In [0, 1)."""
    raw: NDArray[np.uint64] = random.bit_generator.random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(random: np.random.Generator, count: int, bound: int) -> Ints:
    """In [0, bound)."""
    return (uniforms(random, count) * bound).astype(np.int64)


def chosen(random: np.random.Generator, count: int, among: int) -> Ints:
    """`count` different numbers below `among`, ascending."""
    return np.sort(np.argsort(uniforms(random, among), kind="stable")[:count])
