"""Every parameter of a model by name, with its shape, as `core.models.transformer` builds it. No torch: the api counts
parameters, an import compares files with `config.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.models.config import ModelConfig

DISTANCE_BUCKETS = 32
"""of relative positions (`core.models.blocks`)"""

Shapes = dict[str, tuple[int, ...]]


def shapes(config: ModelConfig) -> Shapes:
    """In the order of `Transformer.named_parameters()`; an output matrix that is tied to the embeddings is not here."""
    found = _embeddings(config)
    found |= _stack(config, "model", config.num_layers, cross=config.kind == "encoder_decoder")
    if config.kind == "encoder_decoder":
        found |= _stack(config, "encoder", config.num_encoder_layers, cross=False)
    return found | _heads(config)


def _embeddings(config: ModelConfig) -> Shapes:
    width = config.hidden_size
    found: Shapes = {"model.embed_tokens.weight": (config.vocab_size, width)}
    if config.positions == "learned":
        found["model.embed_positions.weight"] = (config.context_length + config.position_offset, width)
    if config.token_types:
        found["model.embed_types.weight"] = (config.token_types, width)
    if config.kind == "encoder":
        found |= _norm(config, "model.embed_norm", width)
    return found


def _stack(config: ModelConfig, stack: str, num_layers: int, *, cross: bool) -> Shapes:
    width, wide, narrow = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    qkv, rest = config.biases != "none", config.biases == "all"
    found: Shapes = {}
    if config.positions == "relative":
        found[f"{stack}.relative_bias.weight"] = (DISTANCE_BUCKETS, config.num_heads)
    for layer in range(num_layers):
        block = f"{stack}.layers.{layer}"
        for attention in ("self_attn", "cross_attn")[: 1 + cross]:
            found |= _norm(config, f"{block}.{attention}_norm", width)
            found |= _linear(f"{block}.{attention}.q_proj", wide, width, bias=qkv)
            found |= _linear(f"{block}.{attention}.k_proj", narrow, width, bias=qkv)
            found |= _linear(f"{block}.{attention}.v_proj", narrow, width, bias=qkv)
            found |= _linear(f"{block}.{attention}.o_proj", width, wide, bias=rest)
            if config.qk_norm:
                found |= _norm(config, f"{block}.{attention}.q_norm", config.head_dim)
                found |= _norm(config, f"{block}.{attention}.k_norm", config.head_dim)
        found |= _norm(config, f"{block}.mlp_norm", width)
        if config.gated:
            found |= _linear(f"{block}.mlp.gate_proj", config.intermediate_size, width, bias=rest)
        found |= _linear(f"{block}.mlp.up_proj", config.intermediate_size, width, bias=rest)
        found |= _linear(f"{block}.mlp.down_proj", width, config.intermediate_size, bias=rest)
    if config.norm_position == "before":
        found |= _norm(config, f"{stack}.norm", width)
    return found


def _heads(config: ModelConfig) -> Shapes:
    width = config.hidden_size
    found: Shapes = {}
    if config.head == "language_model":
        if config.kind == "encoder":
            found |= _linear("transform.dense", width, width, bias=True) | _norm(config, "transform.norm", width)
        if not config.tied_embeddings:
            found["lm_head.weight"] = (config.vocab_size, width)
        if config.has_output_bias:
            found["lm_head.bias"] = (config.vocab_size,)
    if config.num_outputs:
        if config.is_pooled and config.kind == "encoder":
            found |= _linear("head.dense", width, width, bias=True)
        found |= _linear("head.out", config.num_outputs, width, bias=config.kind == "encoder" or not config.is_pooled)
    return found


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Shapes:
    found: Shapes = {f"{name}.weight": (rows, columns)}
    return found | ({f"{name}.bias": (rows,)} if bias else {})


def _norm(config: ModelConfig, name: str, width: int) -> Shapes:
    found: Shapes = {f"{name}.weight": (width,)}
    return found | ({f"{name}.bias": (width,)} if config.norm == "layer" else {})
