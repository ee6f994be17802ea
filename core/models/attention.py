"""How queries meet keys and values, for those who call a model: over packed rows, with a memory, and with what was
computed before.

Legend: B batch, T positions, S positions of the keys, H query heads, G key/value heads, K head width, R distances.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from core.models.blocks import Attend

Past = dict[int, tuple[Tensor, Tensor]]
"""keys and values [B, G, S, K] by layer"""
Kind = Literal["math", "sdpa"]
"""`math` is a matrix product, a softmax and a product again: on a CPU faster than the fused kernel at short lengths,
and its bits depend on nothing but the inputs. `sdpa` is torch's fused kernel, for GPUs."""


def packed_attention(
    segments_BT: Tensor, *, kind: Kind, see: Literal["before", "all"] = "before", prefix_BT: Tensor | None = None
) -> Attend:
    """A position sees its own segment of the row: itself and what stands before it, or all.

    Args:
        segments_BT: numbers the documents of each row (0: padding, which sees only itself).
        prefix_BT: true where all of the segment may see a position though it stands behind them (prefix language
            models: Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).
    """
    length = segments_BT.shape[1]
    visible_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    if see == "before":
        before_BTS = visible_BTS.new_ones(length, length).tril()
        visible_BTS = visible_BTS & (before_BTS if prefix_BT is None else before_BTS | prefix_BT[:, None, :])
    return _masked(visible_BTS[:, None], kind)


def cross_attention(segments_BT: Tensor, memory_segments_BS: Tensor, *, kind: Kind) -> Attend:
    """A position sees the memory of the segment with its own number."""
    visible_BTS = segments_BT[:, :, None] == memory_segments_BS[:, None, :]
    visible_BTS = visible_BTS | ~visible_BTS.any(-1, keepdim=True)  # padding without a counterpart: else NaN
    return _masked(visible_BTS[:, None], kind)


def growing_attention(past: Past) -> Attend:
    """One document a row, without padding, computed piece by piece: what a piece adds is kept in `past`."""

    def meet(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, bias_HR: Tensor | None = None) -> Tensor:
        if layer in past:
            k_BGTK, v_BGTK = torch.cat((past[layer][0], k_BGTK), 2), torch.cat((past[layer][1], v_BGTK), 2)
        past[layer] = k_BGTK, v_BGTK
        length, end = q_BHTK.shape[2], k_BGTK.shape[2]
        hidden_TS = torch.ones(length, end, dtype=torch.bool, device=q_BHTK.device).triu(end - length + 1)
        bias_BHTS = torch.zeros(length, end, device=q_BHTK.device).masked_fill_(hidden_TS, -math.inf)
        if bias_HR is not None:
            bias_BHTS = bias_BHTS + by_distance(bias_HR, length, end)
        return _attention(q_BHTK, k_BGTK, v_BGTK, bias_BHTS)

    return lambda layer: partial(meet, layer)


def memory_attention(past: Past, memory_segments_BS: Tensor) -> Attend:
    """A decoder's rows see the whole memory of theirs but its padding (0); keys and values are kept in `past`."""
    hidden_B11S = (memory_segments_BS == 0)[:, None, None]
    bias_B11S = torch.zeros_like(hidden_B11S, dtype=torch.float32).masked_fill_(hidden_B11S, -math.inf)

    def meet(layer: int, q_BHTK: Tensor, k_BGSK: Tensor | None, v_BGSK: Tensor | None) -> Tensor:
        if k_BGSK is not None and v_BGSK is not None:
            past[layer] = k_BGSK, v_BGSK
        return _attention(q_BHTK, *past[layer], bias_B11S)

    return lambda layer: partial(meet, layer)


def by_distance(bias_HR: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """[H, T, S]: the entry of the key's position minus the query's, where the last query stands at the last key.

    In a packed row, too: two positions of a segment are as far apart as their places in the row.
    """
    farthest = bias_HR.shape[1] // 2
    keys_S = torch.arange(num_keys, device=bias_HR.device)
    distances_TS = keys_S[None, :] - keys_S[num_keys - num_queries :, None]
    return bias_HR[:, distances_TS.clamp(-farthest, farthest) + farthest]


def _masked(visible_B1TS: Tensor, kind: Kind) -> Attend:
    if kind == "math":
        bias_B1TS = torch.zeros_like(visible_B1TS, dtype=torch.float32).masked_fill_(~visible_B1TS, -math.inf)

    def with_distances(bias_HR: Tensor) -> Tensor:
        """The mask and the biases of distances together. Anew in each layer: what a block computes must not depend on
        what another has left behind, or it could not be computed again on the way back."""
        return by_distance(bias_HR, *visible_B1TS.shape[2:]).float().where(visible_B1TS, -math.inf)

    def meet(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, bias_HR: Tensor | None = None) -> Tensor:
        if kind == "math":
            bias_BHTS = bias_B1TS if bias_HR is None else with_distances(bias_HR)
            return _attention(q_BHTK, k_BGSK, v_BGSK, bias_BHTS)
        mask_BHTS = visible_B1TS if bias_HR is None else with_distances(bias_HR).to(q_BHTK.dtype)
        return functional.scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, attn_mask=mask_BHTS, enable_gqa=k_BGSK.shape[1] != q_BHTK.shape[1]
        )

    return lambda layer: meet


def _attention(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, bias_BHTS: Tensor) -> Tensor:
    repeats = q_BHTK.shape[1] // k_BGSK.shape[1]
    if repeats > 1:
        k_BGSK, v_BGSK = k_BGSK.repeat_interleave(repeats, 1), v_BGSK.repeat_interleave(repeats, 1)
    scores_BHTS = (q_BHTK @ k_BGSK.transpose(-1, -2)).float() * q_BHTK.shape[-1] ** -0.5 + bias_BHTS
    out_BHTK: Tensor = scores_BHTS.softmax(-1).to(v_BGSK.dtype) @ v_BGSK
    return out_BHTK
