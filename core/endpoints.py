"""Which addresses of the API a model answers at, by its kind and head. No HTTP here, only their names."""

from collections.abc import Sequence
from typing import Literal

from core.errors import InvalidRequest
from core.models.config import ModelConfig

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
    """None: the model only predicts hidden tokens; others are trained from it."""
    if config.head == "embedding":
        return (EMBEDDINGS,)
    if config.head != "language_model":
        return (CLASSIFICATIONS,)
    if config.kind == "encoder":
        return ()
    return (COMPLETIONS, CHAT) if has_chat_template else (COMPLETIONS,)


def check_serves(config: ModelConfig, wanted: Endpoint) -> None:
    """
    Raises:
        InvalidRequest: another address serves the model, which the message names, or none does.
    """
    there = endpoints(config)
    if wanted in there:
        return
    lacks, code = _ASKED[wanted]
    raise InvalidRequest(
        f"This model {lacks}: it is {_described(config)}.", code=code, param="model", hint=_way_out(there, wanted)
    )


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


def _way_out(there: Sequence[Endpoint], wanted: Endpoint) -> str:
    if there:
        return f"POST {there[0]} serves it."
    trained = {EMBEDDINGS: "contrastive", CLASSIFICATIONS: "sequence_classification"}.get(wanted)
    return f"Train a model from it first{f', with the objective {trained}' if trained else ''}."
