"""The matrix of a linear layer that is not trained: as it is, or in 8 or 4 bits (`core.adapters.quantise`).

A matrix is multiplied in full: `dense` writes it out for one layer at a time, forward and backward, from fp32 values
that are those of `quantise` to the bit; so a merge adds to what the adapter was trained on.

Legend: O rows (out features), I columns (in features), K blocks.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.adapters.quantise import LEVELS, Int8Blocks, NormalFloat4Blocks


class DenseWeight(nn.Module):
    """Kept as it is."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OI, requires_grad=False)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)


class Int8Weight(nn.Module):
    """A byte a weight, and a scale for a block."""

    codes: Tensor
    scales_K: Tensor

    def __init__(self, blocks: Int8Blocks) -> None:
        super().__init__()
        self.shape = blocks.shape
        _keep(self, codes=blocks.codes, scales_K=blocks.scales_K)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return _as_matrix((self.codes * self.scales_K[:, None]).to(dtype), self.shape)


class NormalFloat4Weight(nn.Module):
    """Half a byte a weight, and a scale for 64 in one byte or in four."""

    pairs: Tensor
    level_pairs: Tensor
    scales_K: Tensor

    def __init__(self, blocks: NormalFloat4Blocks) -> None:
        super().__init__()
        self.shape = blocks.shape
        self.scales_mean = float(blocks.scales_mean)
        self.scales: Int8Weight | None = None
        _keep(self, pairs=blocks.pairs, level_pairs=np.stack((LEVELS.repeat(16), np.tile(LEVELS, 16)), 1))
        if isinstance(blocks.scales, Int8Blocks):
            self.scales = Int8Weight(blocks.scales)
        else:
            _keep(self, scales_K=blocks.scales)

    def dense(self, dtype: torch.dtype) -> Tensor:
        scales_K = self.scales_K if self.scales is None else self.scales.dense(torch.float32) + self.scales_mean
        values = functional.embedding(self.pairs.int(), self.level_pairs).flatten(1)
        return _as_matrix((values * scales_K[:, None]).to(dtype), self.shape)


FrozenWeight = DenseWeight | Int8Weight | NormalFloat4Weight


def _keep(module: nn.Module, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        module.register_buffer(name, torch.from_numpy(array), persistent=False)


def _as_matrix(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    return blocks.flatten()[: int(np.prod(shape))].view(shape)
