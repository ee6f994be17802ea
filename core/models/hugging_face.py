"""What all families share in reading and writing Hugging Face's `config.json`: heads, labels, activations, refusals."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import InvalidData
from core.models.config import Head, ModelConfig

ACTIVATIONS: dict[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""theirs to ours; the first of ours that has the value is written"""


class Given(BaseModel):
    """What is read of any `config.json`; keys that are not named do not change the computation."""

    model_config = ConfigDict(extra="ignore", strict=False)

    architectures: tuple[str, ...]
    id2label: dict[int, str] | None = None
    num_labels: int | None = None
    problem_type: str | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    quantization_config: dict[str, Any] | None = None


G = TypeVar("G", bound=Given)


def read(kind: type[G], config: dict[str, Any]) -> G:
    """
    Raises:
        InvalidData: a value is missing or of the wrong type, or asks for what no family has.
    """
    try:
        given = kind.model_validate(config)
    except ValidationError as error:
        raise unsupported(error) from error
    refuse(quantization_config=given.quantization_config is not None)
    return given


def refuse(**asked_for: bool) -> None:
    """
    Raises:
        InvalidData: one of these, by its name in `config.json`, is asked for.
    """
    for name, is_asked_for in asked_for.items():
        if is_asked_for:
            raise InvalidData(f"config.json asks for {name}, which is not available here", code="unsupported_model")


def activation(name: str, *, allowed: tuple[str, ...] = ("gelu", "gelu_tanh", "relu", "silu")) -> str:
    """Ours for theirs.

    Raises:
        InvalidData: there is none.
    """
    ours = ACTIVATIONS.get(name)
    if ours not in allowed:
        known = ", ".join(theirs for theirs, own in ACTIVATIONS.items() if own in allowed)
        raise InvalidData(f"config.json asks for the activation {name!r}; known: {known}", code="unsupported_model")
    return ours


def activation_name(config: ModelConfig) -> str:
    """Theirs for ours."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)


def model_config(given: Given, architectures: Mapping[str, Head], **values: Any) -> ModelConfig:
    """The configuration, with the head that the architecture names.

    Raises:
        InvalidData: the values contradict each other.
    """
    try:
        return ModelConfig.model_validate(values | _head(given, architectures))
    except ValidationError as error:
        raise unsupported(error) from error


def _head(given: Given, architectures: Mapping[str, Head]) -> dict[str, Any]:
    head = next(architectures[name] for name in given.architectures if name in architectures)
    if head not in ("classifier", "tagger"):
        return {"head": head}
    names = given.id2label or {i: f"LABEL_{i}" for i in range(given.num_labels or 2)}
    labels = tuple(names[i] for i in sorted(names))
    if head == "classifier" and len(labels) == 1:
        return {"head": "score"}
    return {
        "head": head,
        "labels": labels,
        "many_labels": head == "classifier" and given.problem_type == "multi_label_classification",
    }


def head_values(config: ModelConfig, architectures: Mapping[str, Head]) -> dict[str, Any]:
    """`architectures` (the first that has the head) and labels, as `transformers` writes them."""
    wanted = "classifier" if config.head == "score" else config.head
    values: dict[str, Any] = {"architectures": [next(name for name, head in architectures.items() if head == wanted)]}
    labels = ("SCORE",) if config.head == "score" else config.labels
    if labels:
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
        values["label2id"] = {label: i for i, label in enumerate(labels)}
    if config.head in ("classifier", "score"):
        one = "regression" if config.head == "score" else "single_label_classification"
        values["problem_type"] = "multi_label_classification" if config.many_labels else one
    return values


def unsupported(error: ValidationError) -> InvalidData:
    """The first thing that pydantic found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "values"
    return InvalidData(f"config.json: {where}: {first['msg']}", code="unsupported_model")
