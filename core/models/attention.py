"""Causal attention over packed rows: a position sees itself and what stands before it in its own document.

Legend: B batch, T positions, H query heads, G key/value heads, K head width.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from core.models.transformer import Attend


def packed_attention(segments_BT: Tensor, *, kind: Literal["math", "sdpa"]) -> Attend:
    """`segments_BT` numbers the documents of each row (0: padding, which sees only itself).

    `math` is a matrix product, a softmax and a product again: on a CPU faster than the fused kernel at short lengths,
    and its bits depend on nothing but the inputs. `sdpa` is torch's fused kernel, for GPUs.
    """
    length = segments_BT.shape[1]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    visible_B1TT = (same_BTT & same_BTT.new_ones(length, length).tril())[:, None]
    if kind == "sdpa":
        return lambda layer, q, k, v: functional.scaled_dot_product_attention(
            q, k, v, attn_mask=visible_B1TT, enable_gqa=k.shape[1] != q.shape[1]
        )
    bias_B1TT = torch.zeros_like(visible_B1TT, dtype=torch.float32).masked_fill_(~visible_B1TT, -math.inf)

    def attend(layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
        repeats = q_BHTK.shape[1] // k_BGTK.shape[1]
        if repeats > 1:
            k_BGTK, v_BGTK = k_BGTK.repeat_interleave(repeats, 1), v_BGTK.repeat_interleave(repeats, 1)
        scores_BHTT = (q_BHTK @ k_BGTK.transpose(-1, -2)).float() * q_BHTK.shape[-1] ** -0.5 + bias_B1TT
        out_BHTK: Tensor = scores_BHTT.softmax(-1).to(v_BGTK.dtype) @ v_BGTK
        return out_BHTK

    return attend
