"""Grader `text_similarity`: how much a text resembles another, from 0 to 1, by a metric of `core.metrics`."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator

from core.graders import template
from core.graders.grade import Item, Sample, SingleGrader
from core.graders.sandbox import Sandbox
from core.graders.template import Template
from core.metrics.bleu import sentence_bleu
from core.metrics.gleu import sentence_gleu
from core.metrics.rouge import rouge
from core.metrics.subsequence import similarity

MISSING = {
    "cosine": "it needs an embedding model",
    "meteor": "it needs the WordNet database",
}
METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": similarity,
    "bleu": lambda text, reference: sentence_bleu(text, reference) / 100,
    "gleu": sentence_gleu,
    "rouge_1": lambda text, reference: rouge(text, reference, 1),
    "rouge_2": lambda text, reference: rouge(text, reference, 2),
    "rouge_3": lambda text, reference: rouge(text, reference, 3),
    "rouge_4": lambda text, reference: rouge(text, reference, 4),
    "rouge_5": lambda text, reference: rouge(text, reference, 5),
    "rouge_l": lambda text, reference: rouge(text, reference, "l"),
}


def _refuse_missing(metric: object) -> object:
    if isinstance(metric, str) and metric in MISSING:
        raise ValueError(f"{metric!r} is not available here: {MISSING[metric]}; there are {', '.join(METRICS)}")
    return metric


class TextSimilarity(SingleGrader):
    """Compares two texts by the words or characters they share."""

    type: Literal["text_similarity"] = "text_similarity"
    input: Template
    reference: Template
    evaluation_metric: Annotated[
        Literal["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"],
        BeforeValidator(_refuse_missing),
    ]
    """`fuzzy_match`: twice the longest common subsequence of characters over both lengths"""

    def score(self, sample: Sample, item: Item, sandbox: Sandbox) -> float:
        text = template.render(self.input, sample, item)
        reference = template.render(self.reference, sample, item)
        return METRICS[self.evaluation_metric](text, reference)

    def item_fields(self) -> frozenset[str]:
        return template.item_fields(self.input, self.reference)
