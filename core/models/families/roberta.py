"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT without token types or next sentences. Its positions are counted
from behind the id of the padding token; that id, in `config.json`, is always the one that fits the positions."""

from typing import Any

from core.models import hugging_face
from core.models.config import Dimensions, Head, ModelConfig
from core.models.families import bert
from core.models.families.bert import UNUSED, deviation
from core.models.stored import Stored, plain, under

__all__ = ["ARCHITECTURES", "PRESETS", "UNUSED", "deviation", "names", "read_config", "shape", "write_config"]

ARCHITECTURES: dict[str, Head] = {
    "RobertaForMaskedLM": "language_model",
    "RobertaForSequenceClassification": "classifier",
    "RobertaForTokenClassification": "tagger",
    "RobertaForQuestionAnswering": "span",
    "RobertaModel": "embedding",
}
PRESETS: dict[str, Dimensions] = {
    name: dims.model_copy(update={"norm_eps": 1e-5}) for name, dims in bert.PRESETS.items()
}
PADDING = 1
"""the id of the padding token, in RoBERTa's own vocabulary and in all that are trained here"""


def shape(dims: Dimensions, *, vocab_size: int) -> ModelConfig:
    switches = bert.SWITCHES | {"token_types": 1, "position_offset": PADDING + 1}
    return ModelConfig.from_dimensions("roberta", dims, vocab_size=vocab_size, **switches)


def read_config(config: dict[str, Any]) -> ModelConfig:
    given = hugging_face.read(bert.Given, {"pad_token_id": PADDING} | config)
    hugging_face.refuse(no_pad_token_id=given.pad_token_id is None)
    offset = (given.pad_token_id or 0) + 1
    return bert.read_kin(
        given,
        ARCHITECTURES,
        family="roberta",
        position_offset=offset,
        context_length=given.max_position_embeddings - offset,
        activation=hugging_face.activation(given.hidden_act, allowed=("gelu",)),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    own = {"model_type": "roberta", "pad_token_id": config.position_offset - 1}
    return bert.write_kin(config) | hugging_face.head_values(config, ARCHITECTURES) | own


def names(config: ModelConfig) -> dict[str, Stored]:
    prefixes = ("", "roberta.") if config.head == "embedding" else ("roberta.", "")
    out = {"span": "qa_outputs", "tagger": "classifier"}.get(config.head, "classifier.out_proj")
    heads: dict[str, str | Stored] = {
        "transform.dense": "lm_head.dense",
        "transform.norm": "lm_head.layer_norm",
        "lm_head": "lm_head.decoder",
        "lm_head.bias": Stored(("lm_head.bias", "lm_head.decoder.bias")),
        "head.dense": "classifier.dense",
        "head.out": out,
    }
    return bert.with_old_names(under(prefixes, bert.TRUNK) | plain(heads))
