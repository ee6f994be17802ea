"""The Transformer of 2017 (Vaswani et al., arXiv:1706.03762): encoder and decoder with sinusoidal positions, layer
norms after each part, ReLU, one embedding for source, target and output.

Its directory is Marian's (Junczys-Dowmunt et al. 2018, arXiv:1804.00344), which differs in nothing but biases in
attention, a bias of the output, and the order of a sinusoid's coordinates; so the pre-trained OPUS-MT models load, too.
"""

import math
from typing import Any

from pydantic import model_validator

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.shapes import shapes
from core.models.stored import Stored, plain, under

UNUSED = ("num_kv_heads", "head_dim", "rope_theta", "norm_eps")
ARCHITECTURES: dict[str, Head] = {"MarianMTModel": "language_model"}
PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=2, num_heads=4),  # 2 M
    "micro": Dimensions(hidden_size=192, num_layers=3, num_heads=6),  # 5 M
    "mini": Dimensions(hidden_size=256, num_layers=4, num_heads=4),  # 9 M
    "small": Dimensions(hidden_size=384, num_layers=6, num_heads=6),  # 28 M
    "medium": Dimensions(hidden_size=512, num_layers=6, num_heads=8),  # 48 M: the paper's base
    "large": Dimensions(hidden_size=1024, num_layers=6, num_heads=16),  # 0.2 B: the paper's big
}
SWITCHES: dict[str, Any] = {
    "kind": "encoder_decoder",
    "embedding_scale": "input",
    "norm": "layer",
    "norm_position": "after",
    "positions": "sinusoidal",
    "activation": "relu",
    "gated": False,
    "biases": "all",
}
EPS = 1e-5


class Given(hugging_face.Given):
    vocab_size: int
    decoder_vocab_size: int | None = None
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    scale_embedding: bool = False
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    normalize_before: bool = False
    normalize_embedding: bool = False
    add_final_layer_norm: bool = False

    @model_validator(mode="after")
    def _divides(self) -> "Given":
        if self.d_model % self.encoder_attention_heads:
            heads = f"encoder_attention_heads {self.encoder_attention_heads}"
            raise ValueError(f"d_model {self.d_model} is not a multiple of {heads}")
        return self


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("transformer", dims, vocab_size=vocab_size, **SWITCHES)


def read_config(config: dict[str, Any]) -> ModelConfig:
    given = hugging_face.read(Given, config)
    hugging_face.refuse(
        different_heads_in_encoder_and_decoder=given.encoder_attention_heads != given.decoder_attention_heads,
        different_ffn_dim_in_encoder_and_decoder=given.encoder_ffn_dim != given.decoder_ffn_dim,
        separate_vocabularies=not given.share_encoder_decoder_embeddings
        or given.decoder_vocab_size not in (None, given.vocab_size),
        normalize_before=given.normalize_before,
        normalize_embedding=given.normalize_embedding,
        add_final_layer_norm=given.add_final_layer_norm,
    )
    values = {
        "vocab_size": given.vocab_size,
        "hidden_size": given.d_model,
        "num_layers": given.decoder_layers,
        "num_encoder_layers": given.encoder_layers,
        "num_heads": given.decoder_attention_heads,
        "num_kv_heads": given.decoder_attention_heads,
        "head_dim": given.d_model // given.decoder_attention_heads,
        "intermediate_size": given.decoder_ffn_dim,
        "context_length": given.max_position_embeddings,
        "tied_embeddings": given.tie_word_embeddings,
        "embedding_scale": "input" if given.scale_embedding else "none",
        "rope_theta": Dimensions.model_fields["rope_theta"].default,
        "norm_eps": EPS,
        "activation": hugging_face.activation(given.activation_function),
    }
    return hugging_face.model_config(given, ARCHITECTURES, family="transformer", **SWITCHES | values)


def write_config(config: ModelConfig) -> dict[str, Any]:
    return hugging_face.head_values(config, ARCHITECTURES) | {
        "model_type": "marian",
        "vocab_size": config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.intermediate_size,
        "decoder_ffn_dim": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "activation_function": hugging_face.activation_name(config),
        "scale_embedding": config.embedding_scale == "input",
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": config.tied_embeddings,
        "is_encoder_decoder": True,
        "forced_eos_token_id": None,
    }


def names(config: ModelConfig) -> dict[str, Stored]:
    trunk: dict[str, str | Stored] = {"model.embed_tokens": Stored(("shared", "decoder.embed_tokens"))}
    for ours, theirs in (("model", "decoder"), ("encoder", "encoder")):
        attentions = {"self_attn": "self_attn"} | ({"cross_attn": "encoder_attn"} if ours == "model" else {})
        for own, other in attentions.items():
            for part, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out")):
                trunk[f"{ours}.layers.{{}}.{own}.{part}_proj"] = f"{theirs}.layers.{{}}.{other}.{name}_proj"
            trunk[f"{ours}.layers.{{}}.{own}_norm"] = f"{theirs}.layers.{{}}.{other}_layer_norm"
        trunk[f"{ours}.layers.{{}}.mlp.up_proj"] = f"{theirs}.layers.{{}}.fc1"
        trunk[f"{ours}.layers.{{}}.mlp.down_proj"] = f"{theirs}.layers.{{}}.fc2"
        trunk[f"{ours}.layers.{{}}.mlp_norm"] = f"{theirs}.layers.{{}}.final_layer_norm"
    heads: dict[str, str | Stored] = {
        "lm_head": "lm_head",
        "lm_head.bias": Stored(("final_logits_bias",), has_leading_one=True),
    }
    return under(("model.", ""), trunk) | plain(heads)


def deviation(config: ModelConfig, name: str) -> float:
    """Embeddings of length 1 before they are scaled, everything else sqrt(2 / (in + out)) (Glorot and Bengio 2010), as
    in the authors' code; the paper does not say."""
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return float(config.hidden_size**-0.5)
    return math.sqrt(2 / sum(shapes(config)[name]))
