"""GPT-2: learned positions, layer norms before each part, GELU, biases everywhere (Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners"). Its files keep matrices as [in, out], and queries, keys, values as one."""

from typing import Any

from pydantic import model_validator

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.families.llama import deviation
from core.models.stored import Stored, plain, under

__all__ = ["ARCHITECTURES", "PRESETS", "UNUSED", "deviation", "names", "read_config", "shape", "write_config"]

UNUSED = ("num_encoder_layers", "num_kv_heads", "head_dim", "rope_theta")
ARCHITECTURES: dict[str, Head] = {
    "GPT2LMHeadModel": "language_model",
    "GPT2ForSequenceClassification": "classifier",
    "GPT2ForTokenClassification": "tagger",
    "GPT2ForQuestionAnswering": "span",
    "GPT2Model": "embedding",
}
PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=4, num_heads=4, context_length=512),  # 1.9 M
    "micro": Dimensions(hidden_size=192, num_layers=6, num_heads=6, context_length=512),  # 4 M
    "mini": Dimensions(hidden_size=384, num_layers=6, num_heads=6, context_length=1024),  # 14 M
    "small": Dimensions(hidden_size=768, num_layers=12, num_heads=12, context_length=1024),  # 92 M: GPT-2
    "medium": Dimensions(hidden_size=1024, num_layers=24, num_heads=16, context_length=1024),  # 0.3 B
    "large": Dimensions(hidden_size=1280, num_layers=36, num_heads=20, context_length=1024),  # 0.7 B
    "xl": Dimensions(hidden_size=1600, num_layers=48, num_heads=25, context_length=1024),  # 1.5 B
}
SWITCHES: dict[str, Any] = {
    "norm": "layer",
    "positions": "learned",
    "activation": "gelu_tanh",
    "gated": False,
    "biases": "all",
}


class Given(hugging_face.Given):
    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_positions: int = 1024
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _divides(self) -> "Given":
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("gpt2", dims, vocab_size=vocab_size, **SWITCHES)


def read_config(config: dict[str, Any]) -> ModelConfig:
    given = hugging_face.read(Given, config)
    hugging_face.refuse(
        add_cross_attention=given.add_cross_attention,
        scale_attn_by_inverse_layer_idx=given.scale_attn_by_inverse_layer_idx,
        unscaled_attention=not given.scale_attn_weights,
    )
    return hugging_face.model_config(
        given,
        ARCHITECTURES,
        family="gpt2",
        vocab_size=given.vocab_size,
        hidden_size=given.n_embd,
        num_layers=given.n_layer,
        num_heads=given.n_head,
        num_kv_heads=given.n_head,
        head_dim=given.n_embd // given.n_head,
        intermediate_size=given.n_inner or 4 * given.n_embd,
        context_length=given.n_positions,
        tied_embeddings=given.tie_word_embeddings,
        rope_theta=Dimensions.model_fields["rope_theta"].default,
        norm_eps=given.layer_norm_epsilon,
        **SWITCHES | {"activation": hugging_face.activation(given.activation_function)},
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    return hugging_face.head_values(config, ARCHITECTURES) | {
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "n_positions": config.context_length,
        "activation_function": hugging_face.activation_name(config),
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
    }


def names(config: ModelConfig) -> dict[str, Stored]:
    def third(number: int) -> Stored:
        return Stored(("h.{}.attn.c_attn",), part=(number, 3), transposed=True)

    trunk: dict[str, str | Stored] = {
        "model.embed_tokens": "wte",
        "model.embed_positions": "wpe",
        "model.layers.{}.self_attn_norm": "h.{}.ln_1",
        "model.layers.{}.self_attn.q_proj": third(0),
        "model.layers.{}.self_attn.k_proj": third(1),
        "model.layers.{}.self_attn.v_proj": third(2),
        "model.layers.{}.self_attn.o_proj": Stored(("h.{}.attn.c_proj",), transposed=True),
        "model.layers.{}.mlp_norm": "h.{}.ln_2",
        "model.layers.{}.mlp.up_proj": Stored(("h.{}.mlp.c_fc",), transposed=True),
        "model.layers.{}.mlp.down_proj": Stored(("h.{}.mlp.c_proj",), transposed=True),
        "model.norm": "ln_f",
    }
    head = {"span": "qa_outputs", "tagger": "classifier"}.get(config.head, "score")
    prefixes = ("", "transformer.") if config.head == "embedding" else ("transformer.", "")
    return under(prefixes, trunk) | plain({"lm_head": "lm_head", "head.out": head})
