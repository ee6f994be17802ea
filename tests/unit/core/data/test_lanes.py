"""Examples of several sequences: they share a row, lane beside lane, and are never mixed up."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.batches import Batches, Piece, RowBatch, validation_batches
from core.data.examples import TokenExample, TokenSequence
from core.data.packing import Predicts, pack
from core.data.token_dataset import TokenDataset, write_token_dataset

PAIR: Predicts = ("next", "next")
TRANSLATION: Predicts = ("same", "next")
SAME: Predicts = ("same",)


def sequence(first: int, size: int, weights: list[float] | None = None) -> TokenSequence:
    return TokenSequence(list(range(first, first + size)), weights or [1.0] * size)


def pairs(path: Path, sizes: list[tuple[int, int]]) -> TokenDataset:
    """Example i has ids from 100 i in its first lane and from 100 i + 50 in its second, and the label i."""
    examples = [
        TokenExample((sequence(100 * i, a), sequence(100 * i + 50, b)), labels=(float(i),))
        for i, (a, b) in enumerate(sizes)
    ]
    return write_token_dataset(path, examples, vocab_size=5000, divisible=False)


def whole_epoch(dataset: TokenDataset, predicts: Predicts, *, length: int) -> list[RowBatch]:
    return list(validation_batches(dataset, length=length, packing="documents", sequences=3, predicts=predicts))


@given(
    st.lists(st.tuples(st.integers(2, 12), st.integers(2, 12)), min_size=1, max_size=20),
    st.sampled_from([PAIR, TRANSLATION]),
)
def test_lanes_of_an_example_lie_side_by_side(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], predicts: Predicts
) -> None:
    dataset = pairs(tmp_path_factory.mktemp("d") / "a", sizes)
    seen: list[int] = []
    for batch in whole_epoch(dataset, predicts, length=13):
        for row, documents in enumerate(batch.documents_BE.tolist()):
            for segment, document in enumerate([d for d in documents if d >= 0], start=1):
                seen.append(document)
                assert batch.labels_BEC[row, segment - 1].tolist() == [document]
                for lane, (size, kind) in enumerate(zip(sizes[document], predicts, strict=True)):
                    here = batch.lanes[lane].segments_BT[row] == segment
                    first, ahead = 100 * document + 50 * lane, int(kind == "next")
                    ids = batch.lanes[lane].ids_BT[row, here].tolist()
                    assert ids == list(range(first, first + size - ahead))
                    assert batch.lanes[lane].targets_BT[row, here].tolist() == [id + ahead for id in ids]
    assert sorted(seen) == list(range(len(sizes)))


def test_the_longest_lane_decides_what_fits(tmp_path: Path) -> None:
    dataset = pairs(tmp_path / "a", [(3, 9), (9, 3), (3, 3)])  # 2 and 8 inputs, 8 and 2, 2 and 2
    rows = pack(dataset, length=10, packing="documents", seed=0, predicts=PAIR)
    assert len(rows) == 2
    assert rows.num_tokens == 24


def test_an_example_needs_something_learned_in_every_lane_that_predicts(tmp_path: Path) -> None:
    examples = [
        TokenExample((sequence(1, 3, [0.0, 0.0, 1.0]), sequence(1, 3, [0.0, 0.0, 0.0]))),
        TokenExample((sequence(1, 3, [0.0, 0.0, 1.0]), sequence(1, 3, [0.0, 1.0, 1.0]))),
    ]
    dataset = write_token_dataset(tmp_path / "a", examples, vocab_size=10, divisible=False)
    rows = pack(dataset, length=8, packing="documents", seed=0, predicts=PAIR)
    assert (rows.document.tolist(), rows.supervised, rows.dropped) == ([1], 3, 1)
    assert pack(dataset, length=8, packing="documents", seed=0, predicts=TRANSLATION).document.tolist() == [1]


def test_a_labelled_text_counts_once_and_tags_count_by_token(tmp_path: Path) -> None:
    labelled = [TokenExample((sequence(1, 4),), labels=(1.0, 0.0)), TokenExample((sequence(1, 2),), labels=(0.0, 1.0))]
    dataset = write_token_dataset(tmp_path / "a", labelled, vocab_size=10, divisible=False)
    assert pack(dataset, length=8, packing="documents", seed=0, predicts=SAME).supervised == 2
    (batch,) = whole_epoch(dataset, SAME, length=8)
    assert batch.lanes[0].ids_BT.tolist() == [[1, 2, 3, 4, 1, 2, 0, 0]]
    assert batch.labels_BEC.tolist() == [[[1, 0], [0, 1]]]
    tagged = [TokenExample((TokenSequence([5, 6, 7], [1.0, 0.0, 1.0], [2, 0, 3]),))]
    dataset = write_token_dataset(tmp_path / "b", tagged, vocab_size=10, divisible=False)
    assert pack(dataset, length=8, packing="documents", seed=0, predicts=SAME).supervised == 2
    (batch,) = whole_epoch(dataset, SAME, length=4)
    assert batch.lanes[0].targets_BT.tolist() == [[2, 0, 3, 0]]
    assert batch.lanes[0].weights_BT.tolist() == [[1, 0, 1, 0]]


def test_noise_is_fresh_each_epoch_and_a_pure_function_of_the_step(tmp_path: Path) -> None:
    """Ids are hidden at random; a row that is shown again is hidden otherwise, and a step is always the same."""

    def hide(piece: Piece, random: np.random.Generator) -> None:
        piece.ids[random.random(len(piece.ids)) < 0.3] = 0

    dataset = write_token_dataset(
        tmp_path / "a", [TokenExample((sequence(1, 40),))] * 4, vocab_size=50, divisible=False
    )

    def batches() -> Batches:
        return Batches([dataset], [1.0], length=40, packing="none", sequences=2, seed=3, predicts=SAME, corrupt=hide)

    one, other = batches(), batches()
    shown = [one.batch(step).lanes[0].ids_BT.tolist() for step in range(4)]
    assert [other.batch(step).lanes[0].ids_BT.tolist() for step in (3, 2, 1, 0)] == shown[::-1]
    rows = [tuple(row) for batch in shown for row in batch]
    assert len(set(rows)) == len(rows)
    held_out = [
        batch.lanes[0].ids_BT.tolist()
        for _ in range(2)
        for batch in validation_batches(dataset, length=40, packing="none", sequences=2, predicts=SAME, corrupt=hide)
    ]
    assert held_out[:2] == held_out[2:]
