"""What has to exist before a train job can train: which token datasets, made from which files, under which names."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from core.data.encodings.encoder import Encoding
from core.data.examples import labels_of
from core.data.formats import FormatName
from core.data.reader import BadLine, parse, read_records
from core.data.token_dataset import dataset_hash
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.job_spec import TrainSpec, ValidationFraction
from core.models.config import Kind
from core.objectives import Objective
from core.run_dir import InputFile, RunInputs

CHAT_FORMATS = ("chat", "alpaca", "sharegpt", "preference", "kto", "graded")
"""whose examples may be rendered by a chat template"""
MAX_LABELS = 4096


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
    """By content hash: known before any example is tokenized."""

    encoding: Encoding
    parts: tuple[Part, ...]
    train: tuple[str, ...]
    """in the order of `data.train`"""
    validation: str | None

    @property
    def is_divisible(self) -> bool:
        return is_divisible(self.encoding, [part.file.format for part in self.parts])

    @property
    def hashes(self) -> set[str]:
        return {hash for part in self.parts for hash in (part.kept, part.held_out) if hash is not None}

    @classmethod
    def of(cls, spec: TrainSpec, inputs: RunInputs, tokenizer: Tokenizer, labels: tuple[str, ...]) -> "Recipe":
        encoding = encoding_of(
            spec.objective,
            model="decoder" if inputs.config is None else inputs.config.kind,
            sequence_length=spec.data.sequence_length,
            seed=spec.seed,
            labels=labels,
        )

        def name(files: Sequence[InputFile], **recipe: object) -> str:
            recipe |= {"formats": [file.format for file in files], "encoding": encoding.model_dump(mode="json")}
            template = tokenizer.chat_template if any(file.format in CHAT_FORMATS for file in files) else None
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
            return cls(encoding, tuple(dict.fromkeys(parts)), tuple(part.kept for part in parts), validation)
        parts = [Part(file, name([file])) for file in files]
        train = tuple(part.kept for part in parts)
        if inputs.validation_file is None:
            return cls(encoding, tuple(dict.fromkeys(parts)), train, None)
        parts.append(Part(inputs.validation_file, name([inputs.validation_file])))
        return cls(encoding, tuple(dict.fromkeys(parts)), train, parts[-1].kept)


def encoding_of(
    objective: Objective, *, model: Kind, sequence_length: int | None, seed: int, labels: tuple[str, ...]
) -> Encoding:
    """What decides the tokens, and nothing else: two jobs that agree in it share their datasets."""
    return Encoding(
        kind=objective.encoding,
        model=model,
        window=sequence_length if objective.windows else None,
        seed=seed if objective.encoding_settings else None,
        labels=labels,
        settings={name: getattr(objective, name) for name in objective.encoding_settings},
    )


def is_divisible(encoding: Encoding, formats: Iterable[FormatName]) -> bool:
    """Its texts go on in the next row."""
    return encoding.kind == "plain" and encoding.window is None and all(format == "text" for format in formats)


def names_of_labels(files: Iterable[InputFile]) -> tuple[str, ...]:
    """All classes or tags that occur in the files, sorted; as numbers where all of them are.

    Raises:
        InvalidData: there are more than `MAX_LABELS`.
    """
    found: set[str] = set()
    for file in files:
        for _, record in read_records(file.path, file.filename):
            with suppress(ValueError):  # bad rows are reported when the file is checked
                if not isinstance(record, BadLine):
                    found.update(labels_of(parse(record, file.format)))
            if len(found) > MAX_LABELS:
                raise InvalidData(
                    f"{file.filename} has more than {MAX_LABELS} different labels; are they labels, or texts?",
                    code="too_many_labels",
                    param=file.id,
                )
    numeric = all(name.isascii() and name.isdigit() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name), name) if numeric else (0, name)))
