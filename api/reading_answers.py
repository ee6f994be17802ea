"""From a generator's readings to the objects of the API."""

import base64
import sys
import time
from array import array
from typing import Any, Literal

from core.jobs.ids import new_id
from core.reading_request import Answers, Embedding, Labels, Masks, Reading, Readings, Score, Tags

Json = dict[str, Any]


def embedding_list(model: str, said: Readings, encoding_format: Literal["float", "base64"]) -> Json:
    """OpenAI's list of embeddings."""
    vectors = [reading.vector for reading in said.readings if isinstance(reading, Embedding)]
    data = [
        {"object": "embedding", "index": i, "embedding": vector if encoding_format == "base64" else floats(vector)}
        for i, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": model, "data": data, "usage": _usage(said)}


def floats(vector: str) -> list[float]:
    numbers = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def classification_list(model: str, said: Readings, *, many_labels: bool, top_k: int | None) -> Json:
    data = [
        {"index": i} | _shown(reading, many_labels=many_labels, top_k=top_k) for i, reading in enumerate(said.readings)
    ]
    return {
        "id": new_id("clsf-"),
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": _usage(said),
    }


def _shown(reading: Reading, *, many_labels: bool, top_k: int | None) -> Json:
    match reading:
        case Labels(labels=labels):
            shown = [label.model_dump() for label in labels[:top_k]]
            # Of many labels none may apply; which ones do is for the reader of the scores to say.
            best = None if many_labels else labels[0].label
            return {"object": "classification", "label": best, "labels": shown}
        case Score(score=score):
            return {"object": "score", "score": score}
        case Tags(words=words, spans=spans):
            return {
                "object": "tags",
                "spans": [span.model_dump() for span in spans],
                "words": [word.model_dump() for word in words],
            }
        case Answers(answers=answers):
            return {"object": "answers", "answers": [answer.model_dump() for answer in answers]}
        case Masks(masks=masks):
            return {"object": "masks", "masks": [mask.model_dump() for mask in masks]}
        case Embedding():
            raise AssertionError("a model that embeds was checked for before")


def _usage(said: Readings) -> Json:
    return {"prompt_tokens": said.num_tokens, "total_tokens": said.num_tokens}
