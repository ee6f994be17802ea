"""What is said of a whole text: an embedding, labels, or a score.

Legend: N texts, D width of an embedding, C labels.
"""

import base64

from torch import Tensor
from torch.nn import functional

from core.reading.inputs import rows
from core.reading.reader import Reader
from core.reading_request import Embedding, Label, Labels, Reading, ReadingRequest, Score


def embeddings(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    """Of length 1. Cut to fewer dimensions they are normalised anew (Kusupati et al. 2022, arXiv:2205.13147)."""
    ids, vectors_ND = _said(reader, request)
    if request.dimensions is not None:
        vectors_ND = functional.normalize(vectors_ND[:, : request.dimensions], dim=-1)
    raw = (vector_D.numpy().astype("<f4").tobytes() for vector_D in vectors_ND)
    return [Embedding(vector=base64.b64encode(bytes).decode()) for bytes in raw], ids


def labels(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    """Probabilities by the model's kind of labels: one of all, or a yes or no each."""
    ids, logits_NC = _said(reader, request)
    probs_NC = logits_NC.sigmoid() if reader.config.many_labels else logits_NC.softmax(-1)
    return [Labels(labels=_ranked(reader, probs_C)) for probs_C in probs_NC], ids


def scores(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    """A regression's value, a reward model's score."""
    ids, scores_N1 = _said(reader, request)
    return [Score(score=score) for score in scores_N1[:, 0].tolist()], ids


def _said(reader: Reader, request: ReadingRequest) -> tuple[int, Tensor]:
    ids = rows(reader, request)
    return sum(map(len, ids)), reader.of_texts(ids)


def _ranked(reader: Reader, probs_C: Tensor) -> tuple[Label, ...]:
    pairs = zip(reader.config.labels, probs_C.tolist(), strict=True)
    return tuple(Label(label=label, score=score) for label, score in sorted(pairs, key=lambda pair: -pair[1]))
