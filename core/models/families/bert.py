"""BERT (Devlin et al. 2019, arXiv:1810.04805), and MiniLM (Wang et al. 2020, arXiv:2002.10957), which has its shape: an
encoder with learned positions, token types, and layer norms after each part."""

from typing import Any

from pydantic import model_validator

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.stored import Stored, plain, under

UNUSED = ("num_encoder_layers", "num_kv_heads", "head_dim", "rope_theta")
ARCHITECTURES: dict[str, Head] = {
    "BertForMaskedLM": "language_model",
    "BertForPreTraining": "language_model",
    "BertForSequenceClassification": "classifier",
    "BertForNextSentencePrediction": "classifier",
    "BertForTokenClassification": "tagger",
    "BertForQuestionAnswering": "span",
    "BertModel": "embedding",
}
PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=4, num_heads=4, norm_eps=1e-12),  # 1.9 M
    "micro": Dimensions(hidden_size=192, num_layers=6, num_heads=6, norm_eps=1e-12),  # 4 M
    "mini": Dimensions(hidden_size=384, num_layers=6, num_heads=12, norm_eps=1e-12),  # 14 M: MiniLM
    "small": Dimensions(hidden_size=512, num_layers=8, num_heads=8, norm_eps=1e-12),  # 30 M
    "medium": Dimensions(hidden_size=768, num_layers=12, num_heads=12, norm_eps=1e-12),  # 92 M: BERT base
    "large": Dimensions(hidden_size=1024, num_layers=24, num_heads=16, norm_eps=1e-12),  # 0.3 B: BERT large
}
SWITCHES: dict[str, Any] = {
    "kind": "encoder",
    "norm": "layer",
    "norm_position": "after",
    "positions": "learned",
    "activation": "gelu",
    "gated": False,
    "biases": "all",
    "token_types": 2,
}


class Given(hugging_face.Given):
    """What BERT and RoBERTa have in their `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    @model_validator(mode="after")
    def _divides(self) -> "Given":
        if self.hidden_size % self.num_attention_heads:
            heads = f"num_attention_heads {self.num_attention_heads}"
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {heads}")
        return self


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dimensions("bert", dims, vocab_size=vocab_size, **SWITCHES)


def read_config(config: dict[str, Any]) -> ModelConfig:
    given = hugging_face.read(Given, config)
    found = read_kin(given, ARCHITECTURES, family="bert", activation=hugging_face.activation(given.hidden_act))
    if "BertForPreTraining" in given.architectures:
        return found.with_head("language_model", next_sentence=True)
    return found


def read_kin(given: Given, architectures: dict[str, Head], **switches: Any) -> ModelConfig:
    """Of BERT or RoBERTa."""
    hugging_face.refuse(
        is_decoder=given.is_decoder,
        add_cross_attention=given.add_cross_attention,
        relative_positions=given.position_embedding_type != "absolute",
    )
    values = {
        "vocab_size": given.vocab_size,
        "hidden_size": given.hidden_size,
        "num_layers": given.num_hidden_layers,
        "num_heads": given.num_attention_heads,
        "num_kv_heads": given.num_attention_heads,
        "head_dim": given.hidden_size // given.num_attention_heads,
        "intermediate_size": given.intermediate_size,
        "context_length": given.max_position_embeddings,
        "tied_embeddings": given.tie_word_embeddings,
        "rope_theta": Dimensions.model_fields["rope_theta"].default,
        "norm_eps": given.layer_norm_eps,
        "token_types": given.type_vocab_size,
    }
    return hugging_face.model_config(given, architectures, **SWITCHES | values | switches)


def write_config(config: ModelConfig) -> dict[str, Any]:
    values = write_kin(config) | hugging_face.head_values(config, ARCHITECTURES) | {"model_type": "bert"}
    return values | ({"architectures": ["BertForPreTraining"]} if config.next_sentence else {})


def write_kin(config: ModelConfig) -> dict[str, Any]:
    """What BERT and RoBERTa share."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length + config.position_offset,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": hugging_face.activation_name(config),
        "tie_word_embeddings": config.tied_embeddings,
    }


TRUNK = {
    "model.embed_tokens": "embeddings.word_embeddings",
    "model.embed_positions": "embeddings.position_embeddings",
    "model.embed_types": "embeddings.token_type_embeddings",
    "model.embed_norm": "embeddings.LayerNorm",
    "model.layers.{}.self_attn.q_proj": "encoder.layer.{}.attention.self.query",
    "model.layers.{}.self_attn.k_proj": "encoder.layer.{}.attention.self.key",
    "model.layers.{}.self_attn.v_proj": "encoder.layer.{}.attention.self.value",
    "model.layers.{}.self_attn.o_proj": "encoder.layer.{}.attention.output.dense",
    "model.layers.{}.self_attn_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "model.layers.{}.mlp.up_proj": "encoder.layer.{}.intermediate.dense",
    "model.layers.{}.mlp.down_proj": "encoder.layer.{}.output.dense",
    "model.layers.{}.mlp_norm": "encoder.layer.{}.output.LayerNorm",
}


def names(config: ModelConfig) -> dict[str, Stored]:
    prefixes = ("", "bert.") if config.head == "embedding" else ("bert.", "")
    pooled = "cls.seq_relationship" if config.next_sentence else "classifier"
    heads: dict[str, str | Stored] = {
        "transform.dense": "cls.predictions.transform.dense",
        "transform.norm": "cls.predictions.transform.LayerNorm",
        "lm_head": "cls.predictions.decoder",
        "lm_head.bias": Stored(("cls.predictions.bias", "cls.predictions.decoder.bias")),
        "head.out": "qa_outputs" if config.head == "span" else Stored((pooled, "cls.seq_relationship")),
    }
    return with_old_names(under(prefixes, TRUNK | {"head.dense": "pooler.dense"}) | plain(heads))


def with_old_names(modules: dict[str, Stored]) -> dict[str, Stored]:
    """Files that were converted from TensorFlow call the norms' parameters gamma and beta."""
    found = dict(modules)
    for ours, stored in modules.items():
        if ours.endswith("norm"):
            for kind, old in (("weight", "gamma"), ("bias", "beta")):
                spelled = [f"{name}.{spelling}" for spelling in (kind, old) for name in stored.names]
                found[f"{ours}.{kind}"] = Stored(tuple(spelled))
    return found


def deviation(config: ModelConfig, name: str) -> float:
    """0.02 (in the authors' code)."""
    return 0.02
