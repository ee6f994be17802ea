"""Labelled texts: the text, and a number for each label that there is."""

from collections.abc import Sequence

from core.data.encodings.encoder import Encoder
from core.data.encodings.reading import texts_read
from core.data.examples import Labelled, TokenExample
from core.errors import InvalidData


def encode(examples: Sequence[Labelled], encoder: Encoder) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: a label that the model does not have, or many labels where one is learned.
    """
    read = texts_read(encoder, [e.text for e in examples], [e.pair for e in examples])
    return [
        [TokenExample((sequence,), label_values(example, encoder), is_cut=is_cut)]
        for example, (sequence, is_cut) in zip(examples, read, strict=True)
    ]


def label_values(example: Labelled, encoder: Encoder) -> tuple[float, ...]:
    """In the order of the encoding's labels: probabilities, or 1 for a label that the text has and 0 for one that it
    has not."""
    labels = encoder.encoding.labels
    wanted = encoder.encoding.settings["labels"]
    if example.many and wanted == "one":
        raise InvalidData(
            "the row has a list of labels, but the objective learns one label a text",
            code="many_labels",
            param="objective.labels",
            hint='set objective.labels to "many", or give each row one label',
        )
    given = dict(example.labels)
    if wanted == "many" and any(value not in (0.0, 1.0) for value in given.values()):
        raise InvalidData(
            "the row has probabilities that sum to 1, but the objective learns many labels, each a yes or no",
            code="soft_labels",
            param="objective.labels",
            hint='set objective.labels to "one", or give each row a list of labels',
        )
    check_known(given, labels)
    return tuple(given.get(name, 0.0) for name in labels)


def check_known(given: Sequence[str] | dict[str, float], labels: Sequence[str]) -> None:
    """Refuse names that the model has not."""
    unknown = sorted(set(given) - set(labels))
    if unknown:
        shown = ", ".join(map(repr, labels[:20])) + (", …" if len(labels) > 20 else "")
        raise InvalidData(
            f"the label {unknown[0]!r} is none of the model's: {shown}",
            code="unknown_label",
            hint="correct it, or start from a model without labels",
        )
