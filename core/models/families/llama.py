"""The Llama family: RMSNorm, rotary positions, SwiGLU, grouped-query attention (Touvron et al. 2023, arXiv:2302.13971).

SmolLM2 and others share the shape. So does Mistral (Jiang et al. 2023, arXiv:2310.06825), whose attention reaches back
no further than a window: here its context is no longer than that, so that the window never matters.
"""

import math
from typing import Any

from pydantic import model_validator

from core.errors import InvalidData
from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.stored import Stored, plain, under

UNUSED = ("num_encoder_layers",)
ARCHITECTURES: dict[str, Head] = {
    "LlamaForCausalLM": "language_model",
    "LlamaForSequenceClassification": "classifier",
    "LlamaForTokenClassification": "tagger",
    "LlamaForQuestionAnswering": "span",
    "LlamaModel": "embedding",
    "MistralForCausalLM": "language_model",
    "MistralForSequenceClassification": "classifier",
    "MistralForTokenClassification": "tagger",
    "MistralForQuestionAnswering": "span",
    "MistralModel": "embedding",
}
PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, context_length=512),  # 1.8 M
    "micro": Dimensions(hidden_size=192, num_layers=6, num_heads=6, num_kv_heads=2, context_length=512),  # 4 M
    "mini": Dimensions(hidden_size=384, num_layers=6, num_heads=6, num_kv_heads=2, context_length=1024),  # 13 M
    "small": Dimensions(hidden_size=512, num_layers=12, num_heads=8, num_kv_heads=4, context_length=2048),  # 39 M
    "medium": Dimensions(hidden_size=768, num_layers=16, num_heads=12, num_kv_heads=4, context_length=2048),  # 0.1 B
    "large": Dimensions(hidden_size=1024, num_layers=24, num_heads=16, num_kv_heads=4, context_length=4096),  # 0.3 B
    "xl": Dimensions(hidden_size=2048, num_layers=20, num_heads=16, num_kv_heads=8, context_length=4096),  # 0.9 B
}


class Given(hugging_face.Given):
    """What Llama and its kin (Qwen2, Qwen3) have in their `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    sliding_window: int | None = None
    use_sliding_window: bool = True
    """Mistral has no such key: its window is used where there is one"""

    @model_validator(mode="after")
    def _divides(self) -> "Given":
        heads, kv = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {heads}")
        if heads % kv:
            raise ValueError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}")
        return self


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("llama", dims, vocab_size=vocab_size)


def read_config(config: dict[str, Any]) -> ModelConfig:
    """Our configuration from a Hugging Face `config.json`.

    Raises:
        InvalidData: a value is missing, or asks for a computation that is not available here.
    """
    return read_kin(hugging_face.read(Given, config), ARCHITECTURES, family="llama")


def read_kin(given: Given, architectures: dict[str, Head], **switches: Any) -> ModelConfig:
    """Of a family that is Llama but for a few switches."""
    rope = (given.rope_parameters or {}) | (given.rope_scaling or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InvalidData(
            f"config.json asks for rope scaling {kind!r}, which is not available here", code="unsupported_model"
        )
    hugging_face.refuse(attention_bias=given.attention_bias, mlp_bias=given.mlp_bias)
    window = given.sliding_window if given.use_sliding_window else None
    return hugging_face.model_config(
        given,
        architectures,
        vocab_size=given.vocab_size,
        hidden_size=given.hidden_size,
        num_layers=given.num_hidden_layers,
        num_heads=given.num_attention_heads,
        num_kv_heads=given.num_key_value_heads or given.num_attention_heads,
        head_dim=given.head_dim or given.hidden_size // given.num_attention_heads,
        intermediate_size=given.intermediate_size,
        context_length=min(given.max_position_embeddings, window or given.max_position_embeddings),
        tied_embeddings=given.tie_word_embeddings,
        rope_theta=rope.get("rope_theta") or given.rope_theta or 10000.0,
        norm_eps=given.rms_norm_eps,
        activation=hugging_face.activation(given.hidden_act, allowed=("silu",)),
        **switches,
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` that `transformers` reads."""
    own = {"model_type": "llama", "attention_bias": False, "mlp_bias": False}
    return write_kin(config) | hugging_face.head_values(config, ARCHITECTURES) | own


def write_kin(config: ModelConfig) -> dict[str, Any]:
    """What Llama's kin share (old and new spelling of the rotary base)."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
    }


def names(config: ModelConfig) -> dict[str, Stored]:
    """Ours but for the norms. `transformers` calls the trunk otherwise below its span readers, and alone."""
    written = {"span": "transformer.", "embedding": ""}.get(config.head, "model.")
    prefixes = (written, *(prefix for prefix in ("model.", "transformer.", "") if prefix != written))
    block = {f"self_attn.{part}": f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
    block |= {f"self_attn.{part}": f"self_attn.{part}" for part in ("q_norm", "k_norm")}
    block |= {f"mlp.{part}": f"mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")}
    block |= {"self_attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    trunk = {"model.embed_tokens": "embed_tokens", "model.norm": "norm"}
    trunk |= {f"model.layers.{{}}.{ours}": f"layers.{{}}.{theirs}" for ours, theirs in block.items()}
    heads = {"lm_head": "lm_head", "head.out": "qa_outputs" if config.head == "span" else "score"}
    return under(prefixes, trunk) | plain(heads)


def deviation(config: ModelConfig, name: str) -> float:
    """sqrt(2 / 5D) (Nguyen and Salazar 2019, arXiv:1910.05895), which is 0.02 at D = 1000; what writes into the
    residual stream is scaled by 1/sqrt(2 layers) (Radford et al. 2019, GPT-2, section 2.3)."""
    small = math.sqrt(2 / (5 * config.hidden_size))
    return small / math.sqrt(2 * config.num_layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else small
