"""The program `python -m core.data.prepare <run_dir>`: turns the files of a train job into token datasets.

It reads `spec.json` and `inputs.json`, checks every row of every file, tokenizes what no earlier job has tokenized, and
reports `Prepared` with the facts that the plan is made from. Data that cannot be trained on ends in `Failed`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np

from core import child
from core.data.check import check_file
from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder
from core.data.examples import Example, TokenExample, characters
from core.data.facts import facts
from core.data.packing import shuffled
from core.data.reader import BadLine, parse, read_records
from core.data.recipe import Part, Recipe, names_of_labels
from core.data.renderer import Renderer
from core.data.token_dataset import TokenDataset, TokenDatasetWriter
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.events import Entered, Prepared, Progressed, Started
from core.job_spec import TrainSpec
from core.run_dir import SPEC, InputFile, RunDir, RunInputs

HELD_OUT = 1 << 20
"""stream of `shuffled`"""
BATCH_CHARACTERS = 1 << 20
BATCH_EXAMPLES = 4096
READING = 0.05
"""share of the time; the rest is tokenizing"""
SECONDS_BETWEEN_REPORTS = 0.5


def main(run_dir: RunDir, stop: child.Stop) -> None:
    spec = TrainSpec.model_validate(run_dir.read_json(SPEC))
    inputs = run_dir.inputs()
    tokenizer = Tokenizer.bytes() if inputs.tokenizer is None else Tokenizer.load(inputs.tokenizer)
    run_dir.report(Started())
    _check_reference(inputs, tokenizer)
    progress = Progress(run_dir, stop)
    labels = _label_names(spec, inputs, progress)
    recipe = Recipe.of(spec, inputs, tokenizer, labels)
    datasets = _existing(recipe, inputs.datasets)
    made: dict[str, str] = {}
    if missing := recipe.hashes - datasets.keys():
        characters = _check_files(recipe, missing, progress)
        for hash in _tokenize(recipe, missing, tokenizer, run_dir.path, characters, progress):
            made[hash] = f"datasets/{hash}"
            datasets[hash] = TokenDataset.open(run_dir.path / made[hash])
    stop.check()
    preparation = facts(run_dir, spec, recipe, tokenizer, datasets)
    run_dir.report(Prepared(datasets=made, facts=preparation.model_dump()))


class Progress:
    """Reports how far the work is, now and then, and ends it where someone asked for that."""

    def __init__(self, run_dir: RunDir, stop: child.Stop) -> None:
        self._run_dir, self._stop = run_dir, stop
        self._reported_at = 0.0

    def enter(self, phase: str) -> None:
        self._run_dir.report(Entered.model_validate({"phase": phase}))

    def at(self, fraction: float, message: str) -> None:
        self._stop.check()
        if time.monotonic() - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self._reported_at = time.monotonic()
            self._run_dir.report(Progressed(fraction=min(1.0, fraction), message=message))


def _check_reference(inputs: RunInputs, tokenizer: Tokenizer) -> None:
    """
    Raises:
        InvalidData: the second model means other tokens by the same ids.
    """
    if inputs.reference is None or tokenizer.has_ids_of(Tokenizer.load(inputs.reference)):
        return
    raise InvalidData(
        "the teacher means other tokens by the same ids than this model; they must have the same vocabulary",
        code="vocabulary_mismatch",
        param="objective.teacher",
        hint="start from random weights with the teacher's tokenizer, or from a model of its family",
    )


def _label_names(spec: TrainSpec, inputs: RunInputs, progress: Progress) -> tuple[str, ...]:
    """Those that the model has already, else all that occur in the files; none where labels have no names.

    Raises:
        InvalidData: there are too few to tell apart.
    """
    if not spec.objective.names_labels:
        return ()
    if inputs.config is not None and inputs.config.labels:
        return inputs.config.labels
    progress.enter("reading")
    files = [*inputs.files, *([inputs.validation_file] if inputs.validation_file else [])]
    labels = names_of_labels(files)
    least = 2 if spec.objective.head == "classifier" and not spec.objective.many_labels else 1
    if 0 < len(labels) < least:
        raise InvalidData(
            f"every row has the same label, {labels[0]!r}: there is nothing to tell apart",
            code="too_few_labels",
            hint="add rows with other labels",
        )
    return labels


def _existing(recipe: Recipe, known: Mapping[str, Path]) -> dict[str, TokenDataset]:
    """Datasets of earlier jobs; a damaged one is made anew."""
    found = {}
    for hash in recipe.hashes & known.keys():
        try:
            found[hash] = TokenDataset.open(known[hash])
        except InvalidData:
            continue
    return found


def _check_files(recipe: Recipe, missing: set[str], progress: Progress) -> dict[str, tuple[int, int]]:
    """Parse every row that will be tokenized: examples and characters by file id.

    Raises:
        InvalidData: rows are wrong; the message names the first ones of every file.
    """
    progress.enter("reading")
    parts = [part for part in recipe.parts if {part.kept, part.held_out} & missing]
    total = sum(part.file.path.stat().st_size for part in parts) or 1
    found, errors, before = {}, [], 0
    for part in parts:
        file, size = part.file, part.file.path.stat().st_size

        def at(fraction: float, *, name: str = file.filename, before: int = before, size: int = size) -> None:
            progress.at(READING * (before + fraction * size) / total, f"reading {name}")

        try:
            report = check_file(file.path, file.filename, file.format, progress=at)
            if (error := report.error()) is not None:
                raise error
            found[file.id] = (report.num_examples, report.num_characters)
        except InvalidData as error:
            error.param = error.param or file.id
            errors.append(error)
        before += size
    if errors:
        first = errors[0]
        message = "; ".join(error.message for error in errors[:3])
        raise InvalidData(message, code=first.code, param=first.param, hint=first.hint)
    return found


def _tokenize(
    recipe: Recipe,
    missing: set[str],
    tokenizer: Tokenizer,
    run_dir: Path,
    counted: Mapping[str, tuple[int, int]],
    progress: Progress,
) -> list[str]:
    """Write the missing datasets, reading each file once."""
    progress.enter("tokenizing")
    total = sum(size for _, size in counted.values()) or 1
    done = 0
    with ExitStack() as stack:
        encoder = Encoder(tokenizer, stack.enter_context(Renderer()), recipe.encoding)
        divisible = recipe.is_divisible
        writers: dict[str, TokenDatasetWriter] = {}
        for part in recipe.parts:
            for hash in (part.kept, part.held_out):
                if hash in missing and hash not in writers:
                    path = run_dir / "datasets" / hash
                    writer = TokenDatasetWriter(path, vocab_size=tokenizer.vocab_size, divisible=divisible)
                    writers[hash] = stack.enter_context(writer)
        for part in recipe.parts:
            if part.file.id not in counted:
                continue
            held_out = _held_out(counted[part.file.id][0], part)
            examples = _examples(part.file)
            first = 0
            while batch := _batch(examples):
                wanted = [part.held_out if held else part.kept for held in held_out[first : first + len(batch)]]
                first += len(batch)
                for hash, writer in writers.items():  # each by itself: texts may be paired with others of their dataset
                    rows = [row for to, row in zip(wanted, batch, strict=True) if to == hash]
                    for example in chain.from_iterable(_encode(encoder, part.file, rows)):
                        writer.append(example)
                done += sum(characters(example) for _, example in batch)
                progress.at(READING + (1 - READING) * done / total, f"tokenizing {part.file.filename}")
    return list(writers)


def _held_out(count: int, part: Part) -> np.ndarray:
    """True for the examples that validate: a fraction, at least one where there are two, the same for a seed."""
    chosen = np.zeros(count, bool)
    if part.held_out is not None and count > 1:
        size = min(max(1, round(part.fraction * count)), count - 1)
        chosen[shuffled(count, part.seed, stream=HELD_OUT)[:size]] = True
    return chosen


def _examples(file: InputFile) -> Iterator[tuple[int, Example]]:
    for line, record in read_records(file.path, file.filename):
        assert not isinstance(record, BadLine), "checked before"
        yield line, parse(record, file.format)


def _batch(examples: Iterator[tuple[int, Example]]) -> list[tuple[int, Example]]:
    batch, size = [], 0
    for line, example in islice(examples, BATCH_EXAMPLES):
        batch.append((line, example))
        size += characters(example)
        if size >= BATCH_CHARACTERS:
            break
    return batch


def _encode(encoder: Encoder, file: InputFile, rows: list[tuple[int, Example]]) -> list[list[TokenExample]]:
    """
    Raises:
        InvalidData: the chat template fails; the message names the row.
    """
    if not rows:
        return []
    try:
        return encode_examples([example for _, example in rows], encoder)
    except InvalidData as error:
        for line, example in rows:  # once more, one by one, to learn which
            try:
                encode_examples([example], encoder)
            except InvalidData as again:
                message = f"{file.filename} line {line}: {again.message}"
                raise InvalidData(message, code=again.code, hint=again.hint, param=file.id) from error
        raise


if __name__ == "__main__":
    child.run(main)
