"""The program `python -m core.data.preview`: what training would see of a file's first rows, by the code that trains.

It reads a `PreviewRequest` from standard input and writes a `Preview`, or `{"error": {code, message, param, hint}}`, to
standard output. A process of its own, with limits, because tokenizers, chat templates and files come from strangers.
"""

import json
import resource
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder
from core.data.examples import Example, Preference, Similar, TokenExample, TokenSequence, characters
from core.data.formats import FormatName
from core.data.reader import BadLine, parse, read_records
from core.data.recipe import encoding_of, is_divisible, names_of_labels
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.errors import CoreError, InvalidData
from core.loss import Specials
from core.models.config import Kind
from core.objectives import Objective
from core.run_dir import InputFile
from core.spec import Spec

MAX_ROWS = 20
MAX_CHARACTERS = 1 << 20
"""of the rows together; the first one is always shown"""
MAX_EXAMPLES = 8
"""that one row becomes, where it is cut into windows"""
MAX_TOKENS = 2048
"""of a sequence"""
MEMORY_BYTES = 6 << 30
CPU_SECONDS = 60
TOO_MUCH = "The file's first rows take too much memory to tokenize; ask for fewer rows, or shorten them."
LANES = {Preference: ("chosen", "rejected"), Similar: ("anchor", "positive", "negative")}


class PreviewRequest(Spec):
    file: InputFile
    tokenizer: Path | None
    """directory; None: the built-in byte tokenizer"""
    model: Kind
    objective: Objective
    labels: tuple[str, ...] = ()
    """those that the model has already"""
    sequence_length: int
    limit: int
    seed: int = 0


class Piece(Spec):
    """Tokens that follow each other and are all learned, or all only read."""

    text: str
    learned: bool
    ids: tuple[int, ...]
    target: str | None = None
    """what is learned there, where that is not the text itself: a tag, the word behind a mask"""


class ShownSequence(Spec):
    name: str
    num_tokens: int
    num_learned: int
    """within a row of training"""
    truncated: bool
    """its end does not fit into a row and is not learned"""
    pieces: tuple[Piece, ...]


class ShownExample(Spec):
    sequences: tuple[ShownSequence, ...]
    labels: tuple[float, ...] = ()
    """of the whole: class probabilities in the order of `Preview.labels`, a value, a span's first and last token"""
    item: str = ""
    """JSON, for graders"""


class ShownRow(Spec):
    line: int
    error: str | None = None
    """why it cannot be used"""
    examples: tuple[ShownExample, ...] = ()
    num_examples: int = 0
    """what it becomes; the first ones are shown"""


class Preview(Spec):
    format: FormatName
    objective: str
    sequence_length: int
    labels: tuple[str, ...]
    """names of classes or tags, in the order of their numbers"""
    rows: tuple[ShownRow, ...]


def preview(request: PreviewRequest) -> Preview:
    """
    Raises:
        InvalidData: the file or the tokenizer cannot be read.
    """
    tokenizer = Tokenizer.bytes() if request.tokenizer is None else Tokenizer.load(request.tokenizer)
    objective, file = request.objective, request.file
    labels = request.labels
    if objective.names_labels and not labels:
        labels = names_of_labels([file])
    encoding = encoding_of(
        objective, model=request.model, sequence_length=request.sequence_length, seed=request.seed, labels=labels
    )
    goes_on = is_divisible(encoding, [file.format])
    with Renderer() as renderer:
        encoder = Encoder(tokenizer, renderer, encoding)
        rows = list(_rows(request))
        encoded = _encode([example for _, example in rows if not isinstance(example, str)], encoder)
        shown = [_row(line, example, encoded, request, encoder, goes_on=goes_on) for line, example in rows]
    return Preview(
        format=file.format,
        objective=objective.kind,
        sequence_length=request.sequence_length,
        labels=labels,
        rows=tuple(shown),
    )


def _rows(request: PreviewRequest) -> Iterable[tuple[int, Example | str]]:
    """The first rows, each an example or what is wrong with it."""
    size = 0
    for line, record in islice(read_records(request.file.path, request.file.filename), request.limit):
        if isinstance(record, BadLine):
            yield line, record.message
            continue
        try:
            example = parse(record, request.file.format)
        except ValueError as error:
            yield line, str(error)
            continue
        size += characters(example)
        yield line, example
        if size > MAX_CHARACTERS:
            return


def _encode(examples: Sequence[Example], encoder: Encoder) -> dict[int, list[TokenExample] | str]:
    """By the example's identity, its tokens or what is wrong; all together, as when a dataset is made."""
    if not examples:
        return {}
    try:
        return dict(zip(map(id, examples), encode_examples(examples, encoder), strict=True))
    except InvalidData:
        return {id(example): _encode_alone(example, encoder) for example in examples}


def _encode_alone(example: Example, encoder: Encoder) -> list[TokenExample] | str:
    try:
        return encode_examples([example], encoder)[0]
    except InvalidData as error:
        return error.message


def _row(
    line: int,
    example: Example | str,
    encoded: dict[int, list[TokenExample] | str],
    request: PreviewRequest,
    encoder: Encoder,
    *,
    goes_on: bool,
) -> ShownRow:
    found = example if isinstance(example, str) else encoded[id(example)]
    if isinstance(found, str):
        return ShownRow(line=line, error=found)
    names = LANES.get(type(example), ())
    shown = []
    for nth, tokens in enumerate(found[:MAX_EXAMPLES]):
        lanes = names or (("source", "target") if len(tokens.sequences) == 2 else ("text",))
        sequences = [
            _sequence(name, lane, sequence, request, encoder, noise=(line, nth), goes_on=goes_on)
            for lane, (name, sequence) in enumerate(zip(lanes, tokens.sequences, strict=False))
        ]
        shown.append(ShownExample(sequences=tuple(sequences), labels=tokens.labels, item=tokens.item))
    return ShownRow(line=line, examples=tuple(shown), num_examples=len(found))


def _sequence(
    name: str,
    lane: int,
    sequence: TokenSequence,
    request: PreviewRequest,
    encoder: Encoder,
    *,
    noise: tuple[int, int],
    goes_on: bool,
) -> ShownSequence:
    """A sequence as a row of training holds it. Where a position's target is the token after it, a row has one input
    less than the sequence has tokens, and the first token is never learned."""
    objective, tokenizer = request.objective, encoder.tokenizer
    ahead = objective.predicts[lane] == "next"
    size = min(len(sequence.ids), request.sequence_length + ahead, MAX_TOKENS)
    ids = np.asarray(sequence.ids[:size], np.int64)
    targets = np.asarray((sequence.targets or sequence.ids)[:size], np.int64)
    weights = np.asarray(sequence.weights[:size], np.float32)
    if ahead:
        weights[:1] = 0.0
    elif sequence.targets is None and not objective.corrupts:
        weights[:] = 0.0  # it is only read
    if objective.corrupts and size > ahead:
        specials = Specials(tokenizer.vocab_size, tokenizer.mask, frozenset(tokenizer.specials.values()))
        random = np.random.Generator(np.random.Philox(key=noise, counter=[0, 0, lane, request.seed]))
        inputs = slice(0, size - ahead)
        objective.corrupt(ids[inputs], targets[ahead:], weights[ahead:], random, specials)
    names = encoder.encoding.labels if sequence.targets is not None else ()
    return ShownSequence(
        name=name,
        num_tokens=len(sequence.ids),
        num_learned=int((weights > 0).sum()),
        truncated=not goes_on and len(sequence.ids) > request.sequence_length + ahead,
        pieces=tuple(_pieces(ids.tolist(), targets.tolist(), (weights > 0).tolist(), names, tokenizer)),
    )


def _pieces(
    ids: list[int], targets: list[int], learned: list[bool], names: Sequence[str], tokenizer: Tokenizer
) -> Iterable[Piece]:
    """Runs of tokens; what is learned besides the text itself stands in pieces of its own."""
    others = [
        target if is_learned and (names or target != id) else None
        for id, target, is_learned in zip(ids, targets, learned, strict=True)
    ]
    keys = [
        (is_learned, None if other is None else at)
        for at, (is_learned, other) in enumerate(zip(learned, others, strict=True))
    ]
    for (is_learned, at), places in groupby(range(len(ids)), key=keys.__getitem__):
        here = [ids[place] for place in places]
        target = None
        if at is not None:
            target = names[targets[at]] if names else tokenizer.decode([targets[at]], skip_special=False)
        yield Piece(text=tokenizer.decode(here, skip_special=False), learned=is_learned, ids=tuple(here), target=target)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        answer = preview(PreviewRequest.model_validate_json(sys.stdin.buffer.read())).model_dump_json()
    except MemoryError:
        answer = json.dumps({"error": {"code": "preview_too_slow", "message": TOO_MUCH, "param": None, "hint": None}})
    except CoreError as error:
        found = {"code": error.code, "message": error.message, "param": error.param, "hint": error.hint}
        answer = json.dumps({"error": found})
    sys.stdout.buffer.write(answer.encode())


if __name__ == "__main__":
    main()
