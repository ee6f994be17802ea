"""Keys and values of the sequences that are being continued: contiguous slots, each as long as the context.

The model asks once a layer; what `prefill` and `decode` return is the only code that knows how the cache is
laid out. Three properties are kept, and tested to the bit on CPU:

- A row's attention does not depend on the other rows of its batch. Lengths are rounded up to whole blocks, so the order
  of summation is the same whatever the longest row is; masked positions add exact zeros.
- What lies behind a sequence's end is zero, not what its predecessor left in the slot: NaN would reach through a mask.
- Nothing is copied to read the cache: rows are views, and several rows are one call over the slots between them.

B rows, H query heads, G key/value heads, R = H / G query heads of each, T positions, K head width, S slots, L layers.
The R query heads of a group share keys and values, so they are treated as R queries of one head.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.models.blocks import Attend
from core.models.config import ModelConfig

BLOCK = 64


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


class KVCache:
    """Owns the tensors and knows which slots are free."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        context_length: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        rows = -(-context_length // BLOCK) * BLOCK
        shape = (config.num_layers, num_slots, config.num_kv_heads, rows, config.head_dim)
        self.keys_LSGTK = _zeros(shape, dtype, torch.device(device))
        self.values_LSGTK = _zeros(shape, dtype, torch.device(device))
        self._free = sorted(range(num_slots), reverse=True)

    @property
    def num_bytes(self) -> int:
        return self.keys_LSGTK.nbytes + self.values_LSGTK.nbytes

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """The lowest free slot: rows that are served together lie together."""
        return self._free.pop()

    def release(self, slot: int, length: int) -> None:
        """Give back a slot of which `length` positions were written."""
        self.keys_LSGTK[:, slot, :, :length].zero_()
        self.values_LSGTK[:, slot, :, :length].zero_()
        self._free.append(slot)
        self._free.sort(reverse=True)

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions."""
        for cache in (self.keys_LSGTK, self.values_LSGTK):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    def prefill(self, slot: int, start: int, count: int) -> Attend:
        """For one row of `count` positions that continue `start` cached ones."""
        end = start + count
        width = _whole_blocks(end)
        positions_T = torch.arange(start, end, device=self.keys_LSGTK.device)
        mask_TT = self._mask(positions_T + 1, width)

        def meet(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
            keys, values = self.keys_LSGTK[layer, slot], self.values_LSGTK[layer, slot]
            keys[:, start:end], values[:, start:end] = k_BGTK[0], v_BGTK[0]
            groups = keys.shape[0]
            q_GQK = q_BHTK.reshape(groups, -1, q_BHTK.shape[-1])
            mask_QT = mask_TT.repeat(q_BHTK.shape[1] // groups, 1)
            out_GQK = functional.scaled_dot_product_attention(
                q_GQK[None], keys[None, :, :width], values[None, :, :width], attn_mask=mask_QT
            )
            return out_GQK.reshape(q_BHTK.shape)

        return lambda layer: partial(meet, layer)

    def decode(self, slots: Sequence[int], lengths: Sequence[int]) -> Attend:
        """For one new position in each of the slots, after `lengths` cached ones.

        The batch may have more rows than slots: they are padding, and their output is zero.
        """
        device = self.keys_LSGTK.device
        slots_B, lengths_B = torch.tensor(slots, device=device), torch.tensor(lengths, device=device)
        first, span = min(slots), max(slots) - min(slots) + 1
        widths = [_whole_blocks(length + 1) for length in lengths]
        together = span * max(widths) <= 2 * sum(widths)
        seats_S = torch.zeros(span, dtype=torch.long, device=device)
        seats_S[slots_B - first] = lengths_B
        mask_SQT = self._mask(seats_S + 1, max(widths))[:, None, None, :]
        masks = [self._mask(lengths_B[i : i + 1] + 1, width) for i, width in enumerate(widths)]

        def meet(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
            keys, values = self.keys_LSGTK[layer], self.values_LSGTK[layer]
            rows, groups, width = len(slots), keys.shape[1], q_BHTK.shape[-1]
            keys[slots_B, :, lengths_B] = k_BGTK[:rows, :, 0]
            values[slots_B, :, lengths_B] = v_BGTK[:rows, :, 0]
            q_BGRK = q_BHTK[:rows].reshape(rows, groups, -1, width)
            out_BGRK = (together_ if together else apart)(q_BGRK, keys, values)
            out_BHTK = torch.zeros_like(q_BHTK)
            out_BHTK[:rows] = out_BGRK.reshape(rows, -1, 1, width)
            return out_BHTK

        def together_(q_BGRK: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q_SGRK = q_BGRK.new_zeros(span, *q_BGRK.shape[1:])
            q_SGRK[slots_B - first] = q_BGRK
            here = slice(first, first + span)
            out_SGRK = functional.scaled_dot_product_attention(
                q_SGRK, keys[here, :, : max(widths)], values[here, :, : max(widths)], attn_mask=mask_SQT
            )
            return out_SGRK[slots_B - first]

        def apart(q_BGRK: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rows = [
                functional.scaled_dot_product_attention(
                    q_BGRK[i : i + 1],
                    keys[slot : slot + 1, :, : widths[i]],
                    values[slot : slot + 1, :, : widths[i]],
                    attn_mask=masks[i],
                )
                for i, slot in enumerate(slots)
            ]
            return torch.cat(rows)

        return lambda layer: partial(meet, layer)

    def _mask(self, visible_Q: Tensor, width: int) -> Tensor:
        """0 where a query sees the position, minus infinity elsewhere."""
        hidden_QT = torch.arange(width, device=visible_Q.device)[None, :] >= visible_Q[:, None]
        mask_QT = torch.zeros(hidden_QT.shape, dtype=self.keys_LSGTK.dtype, device=visible_Q.device)
        return mask_QT.masked_fill_(hidden_QT, float("-inf"))


def _whole_blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory only where they are written (on CPU, where torch.zeros would touch every page)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
