"""Models that say something of texts: what each head says of the inputs of one request. One file for each kind of head;
texts become tokens, and hidden states become outputs, by the code that trains."""

from collections.abc import Callable

import torch

from core.models.config import Head
from core.reading import answers, masks, pooled, tags
from core.reading.reader import Reader
from core.reading_request import Reading, ReadingRequest, Readings

Read = Callable[[Reader, ReadingRequest], tuple[list[Reading], int]]
READINGS: dict[Head, Read] = {
    "embedding": pooled.embeddings,
    "classifier": pooled.labels,
    "score": pooled.scores,
    "tagger": tags.tags,
    "span": answers.answers,
    "language_model": masks.masks,
}


@torch.inference_mode()
def read(reader: Reader, request: ReadingRequest) -> Readings:
    """
    Raises:
        InvalidRequest: an input that the model does not read, or too long a one (`context_length_exceeded`).
        Interrupted: nobody wants it any more.
    """
    readings, num_tokens = READINGS[reader.config.head](reader, request)
    return Readings(readings=tuple(readings), num_tokens=num_tokens)
