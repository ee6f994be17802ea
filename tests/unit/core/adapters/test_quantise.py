"""Blocks in 8 and 4 bits: levels as published, errors within bounds, and the same values in torch as in numpy."""

import numpy as np
import pytest
import torch

from core.adapters.frozen_weights import Int8Weight, NormalFloat4Weight
from core.adapters.quantise import LEVELS, Int8Blocks, NormalFloat4Blocks

# Dettmers et al. 2023, appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def test_levels_are_those_of_the_paper() -> None:
    np.testing.assert_allclose(LEVELS, PUBLISHED, atol=1e-6)
    assert LEVELS[7] == 0


def test_int8_by_hand() -> None:
    """254 is the largest: the scale is 2."""
    values = np.array([[254.0, -254.0, 2.0, 2.9, 1.1, 0.0]], np.float32)
    blocks = Int8Blocks.of(values)
    assert blocks.codes[0, :6].tolist() == [127, -127, 1, 1, 1, 0]
    assert blocks.dense().tolist() == [[254, -254, 2, 2, 2, 0]]


def test_nf4_by_hand() -> None:
    """Of a block with the largest value 2, each value becomes twice the nearest level."""
    values = np.array([2.0, -2.0, 0.0, 0.16, 0.13, 0.07, *[0.0] * 58], np.float32)
    blocks = NormalFloat4Blocks.of(values, double=False)
    assert blocks.pairs[0, :3].tolist() == [15 << 4 | 0, 7 << 4 | 8, 8 << 4 | 7]
    np.testing.assert_allclose(blocks.dense()[:6], [2, -2, 0, 2 * LEVELS[8], 2 * LEVELS[8], 0], rtol=1e-6)


def test_errors_stay_within_half_a_step() -> None:
    values = normal(96, 128)
    blocks = Int8Blocks.of(values)
    within = blocks.scales_K.repeat(64).reshape(values.shape) / 2
    assert (np.abs(blocks.dense() - values) <= within * 1.0001).all()
    errors = [np.abs(b.dense() - values).mean() / np.abs(values).mean() for b in (
        blocks, NormalFloat4Blocks.of(values, double=False), NormalFloat4Blocks.of(values, double=True)
    )]  # fmt: skip
    assert errors[0] < 0.01
    assert errors[1] < 0.10  # 4 bits: measured 0.087
    assert errors[2] < 1.02 * errors[1]


@pytest.mark.parametrize("shape", [(48, 64), (5, 7), (1, 1), (3, 640)])
def test_torch_reads_the_same_values(shape: tuple[int, int]) -> None:
    values = normal(*shape)
    values[0, 0] = 0
    eight, four = Int8Blocks.of(values), [NormalFloat4Blocks.of(values, double=double) for double in (False, True)]
    for weight, blocks in [(Int8Weight(eight), eight), *((NormalFloat4Weight(b), b) for b in four)]:
        read = weight.dense(torch.float32)
        assert read.shape == shape
        assert np.array_equal(read.numpy(), blocks.dense())
        assert torch.equal(weight.dense(torch.bfloat16), read.to(torch.bfloat16))


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((4, 64), np.float32)
    assert not Int8Blocks.of(zeros).dense().any()
    assert not NormalFloat4Blocks.of(zeros, double=False).dense().any()
    assert np.abs(NormalFloat4Blocks.of(zeros, double=True).dense()).max() == 0


def test_bytes_a_weight() -> None:
    values = normal(256, 1024)

    def size(module: torch.nn.Module) -> float:
        buffers = [b for name, b in module.named_buffers() if not name.endswith("level_pairs")]
        return sum(b.numel() * b.element_size() for b in buffers) / values.size

    assert size(Int8Weight(Int8Blocks.of(values))) == 1 + 4 / 64
    assert size(NormalFloat4Weight(NormalFloat4Blocks.of(values, double=False))) == 0.5 + 4 / 64
    assert size(NormalFloat4Weight(NormalFloat4Blocks.of(values, double=True))) == 0.5 + 1 / 64 + 4 / 64 / 256
