"""Which addresses of the API a model answers at, by its kind and head. No HTTP here, only their names."""

from typing import Literal

from core.errors import InvalidRequest
from core.models.config import Head, Kind, ModelConfig

Endpoint = Literal["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classifications"]
COMPLETIONS: Endpoint = "/v1/completions"
CHAT: Endpoint = "/v1/chat/completions"
EMBEDDINGS: Endpoint = "/v1/embeddings"
CLASSIFICATIONS: Endpoint = "/v1/classifications"
_ASKED: dict[Endpoint, tuple[str, str]] = {
    COMPLETIONS: ("continues no text", "model_cannot_generate"),
    CHAT: ("continues no text", "model_cannot_generate"),
    EMBEDDINGS: ("makes no embeddings", "model_cannot_embed"),
    CLASSIFICATIONS: ("has no labels or scores to give", "model_cannot_classify"),
}
"""what a model does not do, and the code of the error that says so"""


def endpoints(config: ModelConfig, *, has_chat_template: bool = True) -> tuple[Endpoint, ...]:
    found = endpoints_of(config.kind, config.head)
    return found if has_chat_template else tuple(endpoint for endpoint in found if endpoint != CHAT)


def endpoints_of(kind: Kind, head: Head) -> tuple[Endpoint, ...]:
    if head == "embedding":
        return (EMBEDDINGS,)
    if head != "language_model" or kind == "encoder":
        return (CLASSIFICATIONS,)
    return (COMPLETIONS, CHAT)


def check_serves(config: ModelConfig, wanted: Endpoint) -> None:
    """
    Raises:
        InvalidRequest: another address serves the model, which the message names.
    """
    there = endpoints(config)
    if wanted in there:
        return
    lacks, code = _ASKED[wanted]
    hint = f"POST {there[0]} serves it."
    if wanted == EMBEDDINGS:
        hint += " The objective contrastive makes a model of it that embeds."
    raise InvalidRequest(f"This model {lacks}: it is {_described(config)}.", code=code, param="model", hint=hint)


def _described(config: ModelConfig) -> str:
    kind = {"decoder": "a decoder", "encoder": "an encoder", "encoder_decoder": "an encoder-decoder"}[config.kind]
    does = {
        "language_model": "that predicts hidden tokens" if config.kind == "encoder" else "that writes text",
        "classifier": "that classifies texts",
        "tagger": "that tags words",
        "span": "that finds answers in texts",
        "score": "that scores texts",
        "embedding": "that embeds texts",
    }[config.head]
    return f"{kind} ({config.family}) {does}"
