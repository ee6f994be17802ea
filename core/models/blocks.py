"""What models are made of: norms, positions, attention, feed-forward, block, stack of blocks, in reading order.
Which of them a model has is data (`core.models.config`).

A block knows no cache and no mask: whoever calls the model says with `attend` how queries meet keys and values in each
layer (`core.models.attention` while training, the key/value cache while generating).

Legend: B batch, T positions, S positions of the memory or the cache, D hidden size, H query heads, G key/value heads,
K head width, R distances.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from core.models.config import ModelConfig
from core.models.shapes import DISTANCE_BUCKETS

Meet = Callable[..., Tensor]
"""(q_BHTK, k_BGSK, v_BGSK[, bias_HR]) -> out_BHTK, in one layer. Queries and keys are rotated already, scores are not
scaled yet. `bias_HR` comes from models with relative positions only: it is added to the scaled score of a query and a
key by the key's position minus the query's, which runs from -FARTHEST to FARTHEST; farther ones count as these."""
Attend = Callable[[int], Meet]
"""by layer. Where layers do not differ it returns the same function for all, so that one compiled block serves all"""
Rotation = tuple[Tensor, Tensor]

FARTHEST = 128
"""distance from which on relative positions are all the same"""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4), computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        wide = x_BTD.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x_BTD.dtype)


def norm(config: ModelConfig, size: int) -> nn.Module:
    """The family's: RMS, or mean and variance (Ba et al. 2016, arXiv:1607.06450)."""
    kind = RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(size, eps=config.norm_eps)


def rotary_angles(positions_BT: Tensor, head_dim: int, theta: float) -> Rotation:
    """cos and sin [B, 1, T, K], fp32, of position times theta^(-2i/K) (Su et al. 2021, arXiv:2104.09864, eq. 15)."""
    exponents = torch.arange(0, head_dim, 2, device=positions_BT.device, dtype=torch.float32) / head_dim
    angles = positions_BT[:, None, :, None].float() * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) by its angle: Hugging Face's pairing of coordinates."""
    left, right = x_BHTK.chunk(2, dim=-1)
    return (x_BHTK * cos + torch.cat((-right, left), dim=-1) * sin).to(x_BHTK.dtype)


def sinusoids(positions_BT: Tensor, width: int) -> Tensor:
    """[B, T, D], fp32: sines, then cosines, of position / 10000^(2i/D) (Vaswani et al. 2017, arXiv:1706.03762, section
    3.5, where they alternate; the order of coordinates is Marian's)."""
    exponents = torch.arange(0, width, 2, device=positions_BT.device, dtype=torch.float64) / width
    angles = positions_BT[..., None].double() * 10000.0**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


def distance_buckets(*, both_ways: bool) -> Tensor:
    """[R]: which of `DISTANCE_BUCKETS` each distance from -FARTHEST to FARTHEST falls into: near ones by themselves,
    farther ones by their logarithm (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

    `both_ways`: half of the buckets are for keys behind the query; else such keys count as distance 0.
    """
    distances_R = torch.arange(-FARTHEST, FARTHEST + 1)
    buckets = DISTANCE_BUCKETS // 2 if both_ways else DISTANCE_BUCKETS
    before_R = distances_R.abs() if both_ways else (-distances_R).clamp(min=0)
    near = buckets // 2
    far_R = near + (before_R.clamp(min=1) / near).log() / math.log(FARTHEST / near) * (buckets - near)
    bucket_R = torch.where(before_R < near, before_R, far_R.long().clamp(max=buckets - 1))
    return bucket_R + buckets * (distances_R > 0) if both_ways else bucket_R


class Attention(nn.Module):
    """Queries in H heads, keys and values in G <= H (grouped queries: Ainslie et al. 2023, arXiv:2305.13245).

    Keys and values come from `x_BTD` itself, or from a memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        wide, narrow = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, wide, bias=config.biases != "none")
        self.k_proj = nn.Linear(config.hidden_size, narrow, bias=config.biases != "none")
        self.v_proj = nn.Linear(config.hidden_size, narrow, bias=config.biases != "none")
        self.o_proj = nn.Linear(wide, config.hidden_size, bias=config.biases == "all")
        self.q_norm = norm(config, config.head_dim) if config.qk_norm else None
        self.k_norm = norm(config, config.head_dim) if config.qk_norm else None
        # T5 does not scale its scores; `attend` scales all by K^-0.5.
        self.gain = math.sqrt(config.head_dim) if config.positions == "relative" else None

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, meet: Meet, bias_HR: Tensor | None = None) -> Tensor:
        q_BHTK, k_BGTK = self._heads(self.q_proj(x_BTD)), self._heads(self.k_proj(x_BTD))
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        if rotation is not None:
            q_BHTK, k_BGTK = rotate(q_BHTK, *rotation), rotate(k_BGTK, *rotation)
        if self.gain is not None:
            q_BHTK = q_BHTK * self.gain
        v_BGTK = self._heads(self.v_proj(x_BTD))
        if bias_HR is None:
            return self._write(meet(q_BHTK, k_BGTK, v_BGTK))
        return self._write(meet(q_BHTK, k_BGTK, v_BGTK, bias_HR))

    def across(self, x_BTD: Tensor, memory_BSD: Tensor | None, meet: Meet) -> Tensor:
        """Queries of `x_BTD` meet the memory; None: `meet` has kept its keys and values."""
        q_BHTK = self._heads(self.q_proj(x_BTD))
        if self.gain is not None:
            q_BHTK = q_BHTK * self.gain
        if memory_BSD is None:
            return self._write(meet(q_BHTK, None, None))
        k_BGSK, v_BGSK = self._heads(self.k_proj(memory_BSD)), self._heads(self.v_proj(memory_BSD))
        return self._write(meet(q_BHTK, k_BGSK, v_BGSK))

    def _heads(self, projected: Tensor) -> Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, -1, self.head_dim).transpose(1, 2)

    def _write(self, out_BHTK: Tensor) -> Tensor:
        out: Tensor = self.o_proj(out_BHTK.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """W_down(f(W_up x)), or W_down(f(W_gate x) * W_up x) (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.biases == "all"
        self.gate_proj = nn.Linear(width, inner, bias=bias) if config.gated else None
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate_proj is None:
            inner = self.activation(self.up_proj(x_BTD))
        else:
            inner = self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)
        out: Tensor = self.down_proj(inner)
        return out


class Block(nn.Module):
    """Attention, in a decoder with a memory attention to that, and a feed-forward layer; each adds to what it reads.

    The norm stands before each of them (x + f(norm(x))) or after (norm(x + f(x)), as in 2017).
    """

    def __init__(self, config: ModelConfig, dropout: float, *, has_memory: bool) -> None:
        super().__init__()
        self.is_norm_first = config.norm_position == "before"
        self.self_attn_norm = norm(config, config.hidden_size)
        self.self_attn = Attention(config)
        self.cross_attn_norm = norm(config, config.hidden_size) if has_memory else None
        self.cross_attn = Attention(config) if has_memory else None
        self.mlp_norm = norm(config, config.hidden_size)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation | None,
        meet: Meet,
        bias_HR: Tensor | None,
        memory_BSD: Tensor | None,
        meet_memory: Meet | None,
    ) -> Tensor:
        x_BTD = self._add(x_BTD, self.self_attn_norm, lambda y: self.self_attn(y, rotation, meet, bias_HR))
        if self.cross_attn is not None and self.cross_attn_norm is not None:
            across = self.cross_attn.across
            x_BTD = self._add(x_BTD, self.cross_attn_norm, lambda y: across(y, memory_BSD, _given(meet_memory)))
        return self._add(x_BTD, self.mlp_norm, self.mlp)

    def _add(self, x_BTD: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.is_norm_first:
            out: Tensor = x_BTD + self.dropout(part(norm(x_BTD)))
        else:
            out = norm(x_BTD + self.dropout(part(x_BTD)))
        return out


def _given(meet: Meet | None) -> Meet:
    assert meet is not None, "this decoder reads a memory: call `decode` with `attend_memory`"
    return meet


class Stack(nn.Module):
    """Blocks, with a norm at the end where the blocks norm before; and, unless it is an encoder-decoder's encoder, the
    embeddings."""

    recomputes = False
    """keep what goes into each block alone, and compute its inside again on the way back (Chen et al. 2016,
    arXiv:1604.06174): the same bits, with the same dropout, for a third more work and a fraction of the memory"""

    def __init__(self, config: ModelConfig, dropout: float, *, num_layers: int, is_second: bool = False) -> None:
        super().__init__()
        self.config = config
        has_memory = config.kind == "encoder_decoder" and not is_second
        self.sees_both_ways = config.kind == "encoder" or is_second
        if not is_second:
            self._add_embeddings(config)
        if config.positions == "relative":
            self.relative_bias = nn.Embedding(DISTANCE_BUCKETS, config.num_heads)
        self.layers = nn.ModuleList(Block(config, dropout, has_memory=has_memory) for _ in range(num_layers))
        self.norm = norm(config, config.hidden_size) if config.norm_position == "before" else None
        self.dropout = nn.Dropout(dropout)

    def _add_embeddings(self, config: ModelConfig) -> None:
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.context_length + config.position_offset, width)
        if config.token_types:
            self.embed_types = nn.Embedding(config.token_types, width)
        if config.kind == "encoder":
            self.embed_norm = norm(config, width)

    def embed(self, ids_BT: Tensor, positions_BT: Tensor, types_BT: Tensor | None = None) -> Tensor:
        """[B, T, D]."""
        config = self.config
        x_BTD: Tensor = self.embed_tokens(ids_BT)
        if config.embedding_scale == "input":
            x_BTD = x_BTD * math.sqrt(config.hidden_size)
        if config.token_types:
            x_BTD = x_BTD + self.embed_types(torch.zeros_like(ids_BT) if types_BT is None else types_BT)
        if config.positions == "learned":
            x_BTD = x_BTD + self.embed_positions(positions_BT + config.position_offset)
        if config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoids(positions_BT, config.hidden_size).to(x_BTD.dtype)
        return self.embed_norm(x_BTD) if config.kind == "encoder" else x_BTD

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        attend: Attend,
        memory_BSD: Tensor | None = None,
        attend_memory: Attend | None = None,
    ) -> Tensor:
        """From embeddings to hidden states [B, T, D], after the final norm."""
        config, rotation, bias_HR = self.config, None, None
        x_BTD = self.dropout(x_BTD)
        if config.positions == "rotary":
            rotation = rotary_angles(positions_BT, config.head_dim, config.rope_theta)
        if config.positions == "relative":
            buckets_R = distance_buckets(both_ways=self.sees_both_ways).to(x_BTD.device)
            bias_HR = self.relative_bias(buckets_R).T
        recomputes = self.recomputes and torch.is_grad_enabled()
        for layer, block in enumerate(self.layers):
            run = partial(checkpoint, block, use_reentrant=False) if recomputes else block
            meet_memory = attend_memory(layer) if attend_memory else None
            x_BTD = run(x_BTD, rotation, attend(layer), bias_HR, memory_BSD, meet_memory)
        hidden_BTD: Tensor = x_BTD if self.norm is None else self.norm(x_BTD)
        return hidden_BTD
