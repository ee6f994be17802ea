"""`TokenDataset`: tokenized examples in an immutable directory, memory-mapped: data larger than memory trains.

    ids.bin       every example's ids, one after the other; uint16 where the vocabulary fits, else uint32
    weights.bin   uint8, 0 or 1 for each id as a target; absent when all are 1
    offsets.bin   int64, where each example starts, and the end: one more than there are examples
    meta.json     `Meta`

The directory's name is its content hash: `dataset_hash` of the file it was made from and of all that decided how.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.examples import TokenExample
from core.errors import InvalidData
from core.spec import Spec

VERSION = 1
"""raised when the same file and recipe would give other tokens: old datasets are then made anew"""

META = "meta.json"


class Meta(Spec):
    version: int
    dtype: str
    num_documents: int
    num_tokens: int
    num_supervised_tokens: int
    """ids with weight 1 that have a predecessor in their example"""
    vocab_size: int
    divisible: bool
    """an example longer than a row goes on in the next row (text); else it is cut off (conversations)"""


class TokenDataset:
    """Read-only. `ids`, `weights` (None: all 1) and `offsets` are memory maps."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self.offsets = _map(path / "offsets.bin", np.dtype(np.int64), meta.num_documents + 1)
        self.ids = _map(path / "ids.bin", np.dtype(meta.dtype), meta.num_tokens)
        weights = path / "weights.bin"
        self.weights = _map(weights, np.dtype(np.uint8), meta.num_tokens) if weights.exists() else None

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
        start, end = int(self.offsets[document]), int(self.offsets[document + 1])
        ids = self.ids[start:end].tolist()
        weights = [1.0] * len(ids) if self.weights is None else self.weights[start:end].astype(float).tolist()
        return TokenExample(ids, weights)


class TokenDatasetWriter:
    """Appends examples to a directory beside `path`, which becomes `path` when the `with` block ends well."""

    def __init__(self, path: Path, *, vocab_size: int, divisible: bool) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._vocab_size, self._divisible = vocab_size, divisible
        self._documents = self._tokens = self._supervised = 0
        self._all_ones = True

    def __enter__(self) -> "TokenDatasetWriter":
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._ids = (self._partial / "ids.bin").open("wb")
        self._weights = (self._partial / "weights.bin").open("wb")
        self._offsets = (self._partial / "offsets.bin").open("wb")
        self._offsets.write(np.int64(0).tobytes())
        return self

    def append(self, example: TokenExample) -> None:
        ids = np.asarray(example.ids, dtype=self._dtype)
        weights = np.asarray(example.weights, dtype=np.uint8)
        self._ids.write(ids.tobytes())
        self._weights.write(weights.tobytes())
        self._documents += 1
        self._tokens += len(ids)
        self._supervised += int(weights[1:].sum())
        self._all_ones = self._all_ones and bool(weights.all())
        self._offsets.write(np.int64(self._tokens).tobytes())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for file in (self._ids, self._weights, self._offsets):
            file.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        if self._all_ones:
            (self._partial / "weights.bin").unlink()
        meta = Meta(
            version=VERSION,
            dtype=self._dtype.name,
            num_documents=self._documents,
            num_tokens=self._tokens,
            num_supervised_tokens=self._supervised,
            vocab_size=self._vocab_size,
            divisible=self._divisible,
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
