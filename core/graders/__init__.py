"""OpenAI's graders: what judges an answer. One file each; this union is the list."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from core.graders.multi import Multi
from core.graders.python import Python
from core.graders.string_check import StringCheck
from core.graders.text_similarity import TextSimilarity

GRADERS: dict[str, type[StringCheck] | type[TextSimilarity] | type[Python] | type[Multi]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "python": Python,
    "multi": Multi,
}
NEED_A_MODEL = ("score_model", "label_model")


def _refuse_models(grader: Any) -> Any:
    kind = grader.get("type") if isinstance(grader, Mapping) else None
    if kind in NEED_A_MODEL:
        raise ValueError(
            f"graders of type {kind!r} need a model that judges, which is not available yet; there are "
            f"{', '.join(GRADERS)}"
        )
    return grader


Grader = Annotated[
    Annotated[StringCheck | TextSimilarity | Python | Multi, Field(discriminator="type")],
    BeforeValidator(_refuse_models),
]
