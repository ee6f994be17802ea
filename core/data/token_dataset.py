"""`TokenDataset`: tokenized examples in an immutable directory, memory-mapped: data larger than memory trains.

    ids.bin       every sequence's ids, one after the other; uint16 where the vocabulary fits, else uint32
    weights.bin   uint8, 0 or 1 for each id as a target; absent when all are 1
    targets.bin   int32, what is learned at each id, where that is not the ids themselves (tags)
    offsets.bin   int64, where each sequence starts, and the end: one more than there are sequences
    labels.bin    float32, `num_labels` for each example
    items.jsonl   a line of JSON for each example, for who judges answers
    meta.json     `Meta`

An example has `num_lanes` sequences, which follow each other. The directory's name is its content hash:
`dataset_hash` of the file it was made from and of all that decided how.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.data.examples import TokenExample, TokenSequence
from core.errors import InvalidData
from core.spec import Spec

VERSION = 2
"""raised when the same file and recipe would give other tokens: old datasets are then made anew"""

META = "meta.json"


class Meta(Spec):
    version: int
    dtype: str
    num_documents: int
    """examples"""
    num_tokens: int
    num_supervised_tokens: int
    """ids with weight 1 that have a predecessor in their sequence"""
    vocab_size: int
    divisible: bool
    """an example longer than a row goes on in the next row (text); else it is cut off (conversations)"""
    num_lanes: int = 1
    num_labels: int = 0
    num_cut: int = 0
    """examples of whose texts some did not fit"""


class TokenDataset:
    """Read-only. `ids`, `weights` (None: all 1), `targets` (None: the ids), `offsets` and `labels` are memory maps."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self.offsets = _map(path / "offsets.bin", np.dtype(np.int64), meta.num_documents * meta.num_lanes + 1)
        self.ids = _map(path / "ids.bin", np.dtype(meta.dtype), meta.num_tokens)
        weights, targets = path / "weights.bin", path / "targets.bin"
        self.weights = _map(weights, np.dtype(np.uint8), meta.num_tokens) if weights.exists() else None
        self.targets = _map(targets, np.dtype(np.int32), meta.num_tokens) if targets.exists() else None
        labels = _map(path / "labels.bin", np.dtype(np.float32), meta.num_documents * meta.num_labels)
        self.labels = labels.reshape(meta.num_documents, meta.num_labels)
        """[examples, num_labels]"""

    @classmethod
    def open(cls, path: Path) -> "TokenDataset":
        """
        Raises:
            InvalidData: the directory is not a whole token dataset of this version.
        """
        try:
            meta = Meta.model_validate_json((path / META).read_text())
            if meta.version != VERSION:
                raise ValueError(f"version {meta.version}, expected {VERSION}")
            dataset = cls(path, meta)
            if int(dataset.offsets[0]) != 0 or int(dataset.offsets[-1]) != meta.num_tokens:
                raise ValueError("the offsets do not fit the ids")
        except (OSError, ValueError) as error:
            raise InvalidData(f"token dataset {path.name} cannot be read: {error}", code="invalid_dataset") from error
        return dataset

    def __len__(self) -> int:
        return self.meta.num_documents

    def __getitem__(self, document: int) -> TokenExample:
        first = document * self.meta.num_lanes
        sequences = tuple(self._sequence(first + lane) for lane in range(self.meta.num_lanes))
        return TokenExample(sequences, tuple(self.labels[document].tolist()))

    def _sequence(self, number: int) -> TokenSequence:
        start, end = int(self.offsets[number]), int(self.offsets[number + 1])
        ids = self.ids[start:end].tolist()
        weights = [1.0] * len(ids) if self.weights is None else self.weights[start:end].astype(float).tolist()
        return TokenSequence(ids, weights, None if self.targets is None else self.targets[start:end].tolist())

    def starts(self, lane: int = 0) -> NDArray[np.int64]:
        """Where the sequence of that lane starts in `ids`, for each example."""
        return self.offsets[lane : -1 : self.meta.num_lanes]

    def lengths(self, lane: int = 0) -> NDArray[np.int64]:
        """Ids in the sequence of that lane, for each example."""
        return self.offsets[lane + 1 :: self.meta.num_lanes] - self.starts(lane)

    def items(self) -> list[str]:
        """Every example's item; read into memory."""
        path = self.path / "items.jsonl"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else [""] * len(self)


class TokenDatasetWriter:
    """Appends examples to a directory beside `path`, which becomes `path` when the `with` block ends well."""

    def __init__(self, path: Path, *, vocab_size: int, divisible: bool) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._vocab_size, self._divisible = vocab_size, divisible
        self._documents = self._tokens = self._supervised = self._labels = self._cut = 0
        self._lanes = 1
        self._all_ones, self._has_targets, self._has_items = True, False, False

    def __enter__(self) -> "TokenDatasetWriter":
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._files = ExitStack()

        def opened(name: str) -> BinaryIO:
            return self._files.enter_context((self._partial / name).open("wb"))

        self._ids, self._weights, self._targets = opened("ids.bin"), opened("weights.bin"), opened("targets.bin")
        self._offsets, self._label_file, self._items = (
            opened("offsets.bin"),
            opened("labels.bin"),
            opened("items.jsonl"),
        )
        self._offsets.write(np.int64(0).tobytes())
        return self

    def append(self, example: TokenExample) -> None:
        """All examples have the same number of sequences and of labels, and all sequences have targets or none has."""
        self._lanes, self._labels = len(example.sequences), len(example.labels)
        for sequence in example.sequences:
            self._append_sequence(sequence)
        self._label_file.write(np.asarray(example.labels, dtype=np.float32).tobytes())
        self._items.write(example.item.encode() + b"\n")
        self._has_items = self._has_items or bool(example.item)
        self._documents += 1
        self._cut += example.is_cut

    def _append_sequence(self, sequence: TokenSequence) -> None:
        ids = np.asarray(sequence.ids, dtype=self._dtype)
        weights = np.asarray(sequence.weights, dtype=np.uint8)
        self._ids.write(ids.tobytes())
        self._weights.write(weights.tobytes())
        if sequence.targets is not None:
            self._targets.write(np.asarray(sequence.targets, dtype=np.int32).tobytes())
            self._has_targets = True
        self._tokens += len(ids)
        self._supervised += int(weights[1:].sum())
        self._all_ones = self._all_ones and bool(weights.all())
        self._offsets.write(np.int64(self._tokens).tobytes())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._files.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        needless = {
            "weights.bin": self._all_ones,
            "targets.bin": not self._has_targets,
            "items.jsonl": not self._has_items,
        }
        for name, is_needless in needless.items():
            if is_needless:
                (self._partial / name).unlink()
        meta = Meta(
            version=VERSION,
            dtype=self._dtype.name,
            num_documents=self._documents,
            num_tokens=self._tokens,
            num_supervised_tokens=self._supervised,
            vocab_size=self._vocab_size,
            divisible=self._divisible,
            num_lanes=self._lanes,
            num_labels=self._labels,
            num_cut=self._cut,
        )
        (self._partial / META).write_text(meta.model_dump_json(indent=1))
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(self._partial, self.path)


def write_token_dataset(
    path: Path, examples: Iterable[TokenExample], *, vocab_size: int, divisible: bool
) -> TokenDataset:
    """Write the examples one by one, holding none, and open the result. `path` appears whole or not at all."""
    with TokenDatasetWriter(path, vocab_size=vocab_size, divisible=divisible) as writer:
        for example in examples:
            writer.append(example)
    return TokenDataset.open(path)


def dataset_hash(*, files: Iterable[str], tokenizer: str, template: str | None, recipe: object) -> str:
    """Name of what these inputs give: sha256 over the files' hashes, the tokenizer's, the template's and the recipe."""
    inputs = {
        "version": VERSION,
        "files": list(files),
        "tokenizer": tokenizer,
        "template": template and hashlib.sha256(template.encode()).hexdigest(),
        "recipe": recipe,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _map(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {count * dtype.itemsize}")
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
