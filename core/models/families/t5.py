"""T5 (Raffel et al. 2020, arXiv:1910.10683): encoder and decoder with biases of relative positions, RMS norms before
each part, no scaling of attention scores.

Version 1.0 has ReLU, and one matrix for embeddings and output, whose input it scales. Version 1.1 (Shazeer 2020,
arXiv:2002.05202) has a gated GELU and an output matrix of its own. New models have the gated GELU.
"""

from typing import Any

from core.errors import InvalidData
from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.shapes import DISTANCE_BUCKETS
from core.models.stored import Stored, plain

UNUSED = ("num_kv_heads", "rope_theta")
ARCHITECTURES: dict[str, Head] = {"T5ForConditionalGeneration": "language_model"}
PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=2, num_heads=4, norm_eps=1e-6),  # 2 M
    "micro": Dimensions(hidden_size=192, num_layers=3, num_heads=6, norm_eps=1e-6),  # 5 M
    "mini": Dimensions(hidden_size=256, num_layers=4, num_heads=4, norm_eps=1e-6),  # 9 M
    "small": Dimensions(hidden_size=512, num_layers=6, num_heads=8, norm_eps=1e-6),  # 48 M: T5 small
    "medium": Dimensions(hidden_size=768, num_layers=12, num_heads=12, norm_eps=1e-6),  # 0.2 B: T5 base
    "large": Dimensions(hidden_size=1024, num_layers=24, num_heads=16, norm_eps=1e-6),  # 0.7 B: T5 large
}
SWITCHES: dict[str, Any] = {"kind": "encoder_decoder", "positions": "relative"}
_FEED_FORWARD = {
    # theirs: activation, gated
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gated-relu": ("relu", True),
}


class Given(hugging_face.Given):
    vocab_size: int
    d_model: int
    d_kv: int = 64
    d_ff: int
    num_layers: int
    num_decoder_layers: int | None = None
    num_heads: int
    n_positions: int = 512
    relative_attention_num_buckets: int = DISTANCE_BUCKETS
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    """newer files tie in any case, and say by this whether the matrix is that of version 1.0"""


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    scale = "output" if dims.tied_embeddings else "none"
    switches = SWITCHES | {"activation": "gelu_tanh", "gated": True, "embedding_scale": scale}
    return ModelConfig.from_dimensions("t5", dims, vocab_size=vocab_size, **switches)


def read_config(config: dict[str, Any]) -> ModelConfig:
    given = hugging_face.read(Given, config)
    hugging_face.refuse(
        relative_attention_num_buckets=given.relative_attention_num_buckets != DISTANCE_BUCKETS,
        relative_attention_max_distance=given.relative_attention_max_distance != 128,
    )
    if given.feed_forward_proj not in _FEED_FORWARD:
        raise InvalidData(
            f"config.json asks for feed_forward_proj {given.feed_forward_proj!r}; known: {', '.join(_FEED_FORWARD)}",
            code="unsupported_model",
        )
    activation, gated = _FEED_FORWARD[given.feed_forward_proj]
    is_scaled = given.tie_word_embeddings if given.scale_decoder_outputs is None else given.scale_decoder_outputs
    return hugging_face.model_config(
        given,
        ARCHITECTURES,
        family="t5",
        vocab_size=given.vocab_size,
        hidden_size=given.d_model,
        num_layers=given.num_decoder_layers or given.num_layers,
        num_encoder_layers=given.num_layers,
        num_heads=given.num_heads,
        num_kv_heads=given.num_heads,
        head_dim=given.d_kv,
        intermediate_size=given.d_ff,
        context_length=given.n_positions,
        tied_embeddings=given.tie_word_embeddings,
        embedding_scale="output" if is_scaled else "none",
        rope_theta=Dimensions.model_fields["rope_theta"].default,
        norm_eps=given.layer_norm_epsilon,
        activation=activation,
        gated=gated,
        **SWITCHES,
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    feed_forward = next(name for name, own in _FEED_FORWARD.items() if own == (config.activation, config.gated))
    return hugging_face.head_values(config, ARCHITECTURES) | {
        "model_type": "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_kv": config.head_dim,
        "d_ff": config.intermediate_size,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "n_positions": config.context_length,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": feed_forward,
        "tie_word_embeddings": config.embedding_scale == "output",  # that is what the key means to them
        "is_encoder_decoder": True,
    }


def names(config: ModelConfig) -> dict[str, Stored]:
    found: dict[str, str | Stored] = {
        "model.embed_tokens": Stored(("shared", "decoder.embed_tokens", "encoder.embed_tokens")),
        "lm_head": Stored(("lm_head", "shared")),  # newer files tie what older ones did not
    }
    for ours, theirs in (("model", "decoder"), ("encoder", "encoder")):
        parts = {"self_attn": "SelfAttention"} | ({"cross_attn": "EncDecAttention"} if ours == "model" else {})
        for place, (own, other) in enumerate(parts.items()):
            for letter in "qkvo":
                found[f"{ours}.layers.{{}}.{own}.{letter}_proj"] = f"{theirs}.block.{{}}.layer.{place}.{other}.{letter}"
            found[f"{ours}.layers.{{}}.{own}_norm"] = f"{theirs}.block.{{}}.layer.{place}.layer_norm"
        dense = f"{theirs}.block.{{}}.layer.{len(parts)}.DenseReluDense"
        found[f"{ours}.layers.{{}}.mlp.gate_proj"] = f"{dense}.wi_0"
        found[f"{ours}.layers.{{}}.mlp.up_proj"] = f"{dense}.wi_1" if config.gated else f"{dense}.wi"
        found[f"{ours}.layers.{{}}.mlp.down_proj"] = f"{dense}.wo"
        found[f"{ours}.layers.{{}}.mlp_norm"] = f"{theirs}.block.{{}}.layer.{len(parts)}.layer_norm"
        found[f"{ours}.relative_bias"] = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"
        found[f"{ours}.norm"] = f"{theirs}.final_layer_norm"
    return plain(found)


def deviation(config: ModelConfig, name: str) -> float:
    """By what each matrix reads, as in the authors' code: 1/sqrt(in) keeps variances; queries are shrunk by sqrt(K) for
    want of a scaling of scores, and embeddings are not."""
    width, wide = config.hidden_size, config.num_heads * config.head_dim
    if name == "model.embed_tokens.weight":
        return 1.0
    if name.endswith("q_proj.weight"):
        return float((width * config.head_dim) ** -0.5)
    if name.endswith("o_proj.weight"):
        return float(wide**-0.5)
    return float((config.intermediate_size if name.endswith("down_proj.weight") else width) ** -0.5)
