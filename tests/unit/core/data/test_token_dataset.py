from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.examples import TokenExample, TokenSequence
from core.data.token_dataset import TokenDataset, dataset_hash, write_token_dataset
from core.errors import InvalidData

weights = st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from([0.0, 1.0])), max_size=8)


@st.composite
def datasets(draw: st.DrawFn) -> list[TokenExample]:
    """Examples of one shape: so many lanes and labels, tags or none, items or none."""
    lanes, labels = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    has_targets, has_items = draw(st.booleans()), draw(st.booleans())

    def sequence() -> TokenSequence:
        pairs = draw(weights)
        ids = [id for id, _ in pairs]
        return TokenSequence(ids, [weight for _, weight in pairs], [id // 2 for id in ids] if has_targets else None)

    return [
        TokenExample(
            tuple(sequence() for _ in range(lanes)), tuple(float(i) for i in range(labels)), "{}" if has_items else ""
        )
        for _ in range(draw(st.integers(1, 6)))
    ]


@given(datasets())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, examples: list[TokenExample]) -> None:
    path = tmp_path_factory.mktemp("t") / "a"
    dataset = write_token_dataset(path, examples, vocab_size=70_001, divisible=False)
    items = dataset.items()
    assert [replace(dataset[i], item=items[i]) for i in range(len(dataset))] == examples
    again = TokenDataset.open(path)
    assert again.meta == dataset.meta
    sequences = [sequence for example in examples for sequence in example.sequences]
    assert again.meta.num_supervised_tokens == sum(sum(sequence.weights[1:]) for sequence in sequences)
    assert (path / "weights.bin").exists() == any(0.0 in sequence.weights for sequence in sequences)
    for lane in range(again.meta.num_lanes):
        assert again.lengths(lane).tolist() == [len(example.sequences[lane].ids) for example in examples]


def test_ids_take_as_little_room_as_the_vocabulary_needs(tmp_path: Path) -> None:
    one = [TokenExample.of([1, 2], [1.0, 1.0])]
    small = write_token_dataset(tmp_path / "a", one, vocab_size=65_536, divisible=True)
    large = write_token_dataset(tmp_path / "b", one, vocab_size=65_537, divisible=True)
    assert (small.ids.dtype, large.ids.dtype) == (np.uint16, np.uint32)


def test_a_broken_writing_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Iterator[TokenExample]:
        yield TokenExample.of([1], [1.0])
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_token_dataset(tmp_path / "a", breaks(), vocab_size=10, divisible=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["meta.json", "ids.bin", "offsets.bin"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_dataset_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    write_token_dataset(tmp_path / "a", [TokenExample.of([1, 2], [1.0, 1.0])], vocab_size=10, divisible=True)
    path = tmp_path / "a" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidData) as error:
        TokenDataset.open(tmp_path / "a")
    assert error.value.code == "invalid_dataset"


def test_the_hash_depends_on_all_that_decides_the_tokens() -> None:
    base = {"files": ["f"], "tokenizer": "t", "template": "x", "recipe": {"part": "all"}}
    changes = [{}, {"files": ["g"]}, {"files": ["f", "f"]}, {"tokenizer": "u"}, {"template": None}, {"recipe": {}}]
    hashes = [dataset_hash(**{**base, **change}) for change in changes]  # type: ignore[arg-type]
    assert len(set(hashes)) == len(changes)
    assert hashes[0] == dataset_hash(**base)  # type: ignore[arg-type]
