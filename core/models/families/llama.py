"""The Llama family: RMSNorm, rotary positions, SwiGLU, grouped-query attention (Touvron et al. 2023, arXiv:2302.13971;
SmolLM2 and others share the shape)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import InvalidData
from core.models.config import Dimensions, ModelConfig

ARCHITECTURE = "LlamaForCausalLM"

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


class _Config(BaseModel):
    """What we read of a `config.json`; other keys do not change the computation."""

    model_config = ConfigDict(extra="ignore", strict=False)

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


def read_config(config: dict[str, Any]) -> ModelConfig:
    """Our configuration from a Hugging Face `config.json`.

    Raises:
        InvalidData: a value is missing, or asks for a computation that is not available here.
    """
    try:
        given = _Config.model_validate(config)
        rope = (given.rope_parameters or {}) | (given.rope_scaling or {})
        kind = rope.get("rope_type", rope.get("type", "default"))
        refused = {
            f"rope scaling {kind!r}": kind != "default",
            "attention_bias": given.attention_bias,
            "mlp_bias": given.mlp_bias,
            f"hidden_act {given.hidden_act!r} (silu is available)": given.hidden_act != "silu",
        }
        for name, present in refused.items():
            if present:
                raise InvalidData(f"config.json asks for {name}, which is not available here", code="unsupported_model")
        dims = Dimensions(
            hidden_size=given.hidden_size,
            num_layers=given.num_hidden_layers,
            num_heads=given.num_attention_heads,
            num_kv_heads=given.num_key_value_heads,
            head_dim=given.head_dim,
            intermediate_size=given.intermediate_size,
            context_length=given.max_position_embeddings,
            tied_embeddings=given.tie_word_embeddings,
            rope_theta=rope.get("rope_theta") or given.rope_theta or 10000.0,
            norm_eps=given.rms_norm_eps,
        )
        return ModelConfig.from_dimensions("llama", dims, vocab_size=given.vocab_size)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "values"
        raise InvalidData(f"config.json: {where}: {first['msg']}", code="unsupported_model") from error


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` that `transformers` reads (old and new spelling of the rotary base)."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
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
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }
