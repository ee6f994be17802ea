"""The program `python -m core.data.prepare <run_dir>`: turns the files of a train job into token datasets.

It reads `spec.json` and `inputs.json`, checks every row of every file, tokenizes what no earlier job has tokenized, and
reports `Prepared` with the facts that the plan is made from. Data that cannot be trained on ends in `Failed`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from core import child
from core.data import statistics
from core.data.check import check_file
from core.data.encoding import encode_examples
from core.data.examples import Example, TokenExample, characters
from core.data.mixture import Mixture
from core.data.packing import Rows, pack, shuffled
from core.data.reader import BadLine, parse, read_records
from core.data.renderer import Renderer
from core.data.token_dataset import TokenDataset, TokenDatasetWriter, dataset_hash
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.events import Entered, Prepared, Progressed, Started, Warned
from core.job_spec import TrainSpec, ValidationFraction
from core.run_dir import SPEC, InputFile, RunDir, RunInputs
from core.training.plan import Preparation

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
    recipe = Recipe.of(spec, inputs, tokenizer)
    datasets = _existing(recipe, inputs.datasets)
    made: dict[str, str] = {}
    if missing := recipe.hashes - datasets.keys():
        progress = Progress(run_dir, stop)
        characters = _check_files(recipe, missing, progress)
        for hash in _tokenize(recipe, missing, tokenizer, run_dir.path, characters, progress):
            made[hash] = f"datasets/{hash}"
            datasets[hash] = TokenDataset.open(run_dir.path / made[hash])
    stop.check()
    preparation = _facts(run_dir, spec, recipe, tokenizer, datasets)
    run_dir.report(Prepared(datasets=made, facts=preparation.model_dump()))


@dataclass(frozen=True)
class Part:
    """A file, and which datasets its examples go to."""

    file: InputFile
    kept: str
    """hash"""
    held_out: str | None = None
    """hash of the validation dataset that gets `fraction` of the examples"""
    fraction: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """What has to exist before training, by content hash: known before any file is read."""

    parts: tuple[Part, ...]
    train: tuple[str, ...]
    """in the order of `data.train`"""
    validation: str | None

    @property
    def hashes(self) -> set[str]:
        return {hash for part in self.parts for hash in (part.kept, part.held_out) if hash is not None}

    @classmethod
    def of(cls, spec: TrainSpec, inputs: RunInputs, tokenizer: Tokenizer) -> "Recipe":
        def name(files: Sequence[InputFile], **recipe: object) -> str:
            recipe["formats"] = [file.format for file in files]
            template = None if all(f.format != "chat" for f in files) else tokenizer.chat_template
            hashes = [file.sha256 for file in files]
            return dataset_hash(files=hashes, tokenizer=tokenizer.sha256, template=template, recipe=recipe)

        files = inputs.files
        if isinstance(spec.data.validation, ValidationFraction):
            fraction, seed = spec.data.validation.fraction, spec.seed
            validation = name(files, part="held_out", fraction=fraction, seed=seed)
            parts = [
                Part(file, name([file], part="kept", fraction=fraction, seed=seed), validation, fraction, seed)
                for file in files
            ]
            return cls(tuple(dict.fromkeys(parts)), tuple(part.kept for part in parts), validation)
        parts = [Part(file, name([file])) for file in files]
        train = tuple(part.kept for part in parts)
        if inputs.validation_file is None:
            return cls(tuple(dict.fromkeys(parts)), train, None)
        parts.append(Part(inputs.validation_file, name([inputs.validation_file])))
        return cls(tuple(dict.fromkeys(parts)), train, parts[-1].kept)


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
        renderer = stack.enter_context(Renderer())
        writers: dict[str, TokenDatasetWriter] = {}
        for part in recipe.parts:
            for hash in (part.kept, part.held_out):
                if hash in missing and hash not in writers:
                    path, divisible = run_dir / "datasets" / hash, part.file.format == "text"
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
                chosen = [(hash, line, e) for hash, (line, e) in zip(wanted, batch, strict=True) if hash in writers]
                tokenized = _encode(tokenizer, renderer, part.file, [(line, e) for _, line, e in chosen])
                for (hash, _, _), example in zip(chosen, tokenized, strict=True):
                    writers[str(hash)].append(example)
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


def _encode(
    tokenizer: Tokenizer, renderer: Renderer, file: InputFile, rows: list[tuple[int, Example]]
) -> list[TokenExample]:
    """
    Raises:
        InvalidData: the chat template fails; the message names the row.
    """
    if not rows:
        return []
    try:
        return encode_examples(tokenizer, [example for _, example in rows], renderer)
    except InvalidData as error:
        for line, example in rows:  # once more, one by one, to learn which
            try:
                encode_examples(tokenizer, [example], renderer)
            except InvalidData as again:
                message = f"{file.filename} line {line}: {again.message}"
                raise InvalidData(message, code=again.code, hint=again.hint, param=file.id) from error
        raise


def _facts(
    run_dir: RunDir, spec: TrainSpec, recipe: Recipe, tokenizer: Tokenizer, datasets: Mapping[str, TokenDataset]
) -> Preparation:
    """Count what an epoch shows.

    Raises:
        InvalidData: nothing is supervised.
    """
    length, packing = spec.data.sequence_length or 512, spec.data.packing
    train = [datasets[hash] for hash in recipe.train]
    weights = [source.weight for source in spec.data.train]
    rows = [pack(dataset, length=length, packing=packing, seed=spec.seed) for dataset in train]
    mixture = Mixture(rows, weights, seed=spec.seed)
    shown = [count / max(len(r), 1) for count, r in zip(mixture.shown, rows, strict=True)]
    supervised = round(sum(part * r.supervised for part, r in zip(shown, rows, strict=True)))
    if not supervised:
        raise _nothing_to_learn(train, length)
    _warn(run_dir, rows, length)
    held = None if recipe.validation is None else datasets[recipe.validation]
    num_validation_rows = 0 if held is None else len(pack(held, length=length, packing=packing, seed=0))
    if held is not None and not num_validation_rows:
        _refuse_or_warn_without_validation(run_dir, spec)
    counts = statistics.target_counts(train, weights, vocab_size=tokenizer.vocab_size)
    return Preparation(
        train=recipe.train,
        validation=recipe.validation if num_validation_rows else None,
        num_rows=mixture.num_rows,
        num_tokens=round(sum(part * r.num_tokens for part, r in zip(shown, rows, strict=True))),
        num_supervised_tokens=supervised,
        num_validation_rows=num_validation_rows,
        num_documents=sum(len(dataset) for dataset in train),
        unigram_entropy=statistics.entropy(counts),
        bytes_per_token=statistics.bytes_per_token(counts, tokenizer),
        truncated_documents=sum(r.truncated for r in rows),
    )


def _nothing_to_learn(train: Sequence[TokenDataset], length: int) -> InvalidData:
    if any(dataset.meta.num_supervised_tokens for dataset in train):
        return InvalidData(
            f"every answer begins behind the first {length} tokens of its row, so none is learned",
            code="nothing_to_learn",
            param="data.sequence_length",
            hint="raise data.sequence_length, or shorten the prompts",
        )
    return InvalidData(
        "no token has a loss weight: the rendered answers are all empty",
        code="nothing_to_learn",
        hint="look at the file's preview: the chat template may drop the assistant's messages",
    )


def _warn(run_dir: RunDir, rows: Sequence[Rows], length: int) -> None:
    truncated, dropped = sum(r.truncated for r in rows), sum(r.dropped for r in rows)
    if truncated:
        run_dir.report(
            Warned(
                code="examples_truncated",
                message=f"{truncated} examples are longer than {length} tokens; what is behind is not learned. "
                "Raise data.sequence_length to keep it",
            )
        )
    if dropped:
        run_dir.report(
            Warned(
                code="examples_dropped",
                message=f"{dropped} examples have no learned token within the first {length} tokens and are left out. "
                "Raise data.sequence_length, or shorten the prompts",
            )
        )


def _refuse_or_warn_without_validation(run_dir: RunDir, spec: TrainSpec) -> None:
    message = "there is nothing to validate on: holding out needs a file with at least two examples"
    if spec.stop is not None:
        hint = "give data.validation a file, or remove `stop`"
        raise InvalidData(message, code="no_validation", param="data.validation", hint=hint)
    run_dir.report(Warned(code="no_validation", message=message))


if __name__ == "__main__":
    child.run(main)
