"""Packing and batches: nothing lost, nothing twice, nothing learned across documents, any step at random."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.batches import Batches, Lane, RowBatch, validation_batches
from core.data.examples import TokenExample
from core.data.mixture import Mixture
from core.data.packing import _best_fit, pack, shuffled
from core.data.token_dataset import TokenDataset, write_token_dataset

Packing = Literal["documents", "none"]
lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12)
packings = st.sampled_from(["documents", "none"])


def dataset_of(
    path: Path, sizes: list[int], *, divisible: bool, weights: list[list[float]] | None = None
) -> TokenDataset:
    """Ids are all different and follow each other: a document's are first, first + 1, …"""
    examples, first = [], 1
    for i, size in enumerate(sizes):
        ids = list(range(first, first + size))
        examples.append(TokenExample.of(ids, weights[i] if weights else [1.0] * size))
        first += size + 1  # a gap, so that the next document does not continue the count
    return write_token_dataset(path, examples, vocab_size=first + 1, divisible=divisible)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d") / "dataset"


def learned(batch: RowBatch) -> list[int]:
    lane = batch.lanes[0]
    return [int(id) for id in lane.targets_BT[lane.weights_BT > 0]]


def epoch(batches: Batches, *, sequences: int) -> list[RowBatch]:
    steps = -(-batches.num_rows // sequences)
    return [batches.batch(step, total_rows=batches.num_rows) for step in range(steps)]


@given(sizes=lengths, packing=packings, length=st.integers(2, 9), seed=st.integers(0, 5))
def test_text_is_shown_whole_and_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], packing: Packing, length: int, seed: int
) -> None:
    sizes = [*sizes, 3]
    dataset = dataset_of(new(tmp_path_factory), sizes, divisible=True)
    batches = Batches([dataset], [1.0], length=length, packing=packing, sequences=4, seed=seed)
    shown = Counter(id for batch in epoch(batches, sequences=4) for id in learned(batch))
    expected = Counter(id for i in range(len(dataset)) for id in dataset[i].sequences[0].ids[1:])
    assert shown == expected
    rows = pack(dataset, length=length, packing=packing, seed=seed)
    assert (rows.num_tokens, rows.supervised) == (expected.total(), expected.total())
    if packing == "documents":
        assert batches.num_rows == -(-expected.total() // length)


@given(
    sizes=lengths,
    packing=packings,
    divisible=st.booleans(),
    length=st.integers(2, 9),
)
def test_nothing_is_learned_across_documents_and_at_padding(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    packing: Packing,
    divisible: bool,
    length: int,
) -> None:
    sizes = [*sizes, 3]
    dataset = dataset_of(new(tmp_path_factory), sizes, divisible=divisible)
    batches = Batches([dataset], [1.0], length=length, packing=packing, sequences=4, seed=1)
    for batch in (found.lanes[0] for found in epoch(batches, sequences=4)):
        assert (batch.targets_BT == batch.ids_BT + 1)[batch.weights_BT > 0].all()
        assert (batch.weights_BT == (batch.segments_BT > 0)).all()
        for ids, positions, segments in zip(batch.ids_BT, batch.positions_BT, batch.segments_BT, strict=True):
            filled = int((segments > 0).sum())
            assert not segments[filled:].any(), "padding stands at the end"
            for t, (a, b) in enumerate(pairwise(segments[:filled].tolist())):
                if a == b:
                    assert ids[t + 1] == ids[t] + 1
                    assert positions[t + 1] == positions[t] + 1
                else:
                    assert b == a + 1
                    assert positions[t + 1] == 0


@given(sizes=lengths, packing=packings, length=st.integers(2, 9), data=st.data())
def test_examples_are_whole_or_cut_off_and_counted(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], packing: Packing, length: int, data: st.DataObject
) -> None:
    sizes = [*sizes, 3]
    weights = [data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)) for n in sizes]
    weights[-1] = [0.0, 1.0, 0.0]
    dataset = dataset_of(new(tmp_path_factory), sizes, divisible=False, weights=weights)
    rows = pack(dataset, length=length, packing=packing, seed=2)
    teaches = [bool(sum(w[1 : length + 1])) for w in weights]
    assert sorted(rows.document.tolist()) == [i for i, yes in enumerate(teaches) if yes]
    assert rows.dropped == teaches.count(False)
    assert rows.truncated == sum(1 for n, yes in zip(sizes, teaches, strict=True) if yes and n - 1 > length)
    assert rows.supervised == sum(sum(w[1 : length + 1]) for w in weights)
    batches = Batches([dataset], [1.0], length=length, packing=packing, sequences=3, seed=2)
    shown = Counter(id for batch in epoch(batches, sequences=3) for id in learned(batch))
    wanted = Counter()
    for i, w in enumerate(weights):
        wanted.update(
            id for id, weight in list(zip(dataset[i].sequences[0].ids, w, strict=True))[1 : length + 1] if weight
        )
    assert shown == wanted
    if packing == "none":
        assert batches.num_rows == sum(teaches)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=60))
def test_best_fit_wastes_little(tmp_path_factory: pytest.TempPathFactory, inputs: list[int]) -> None:
    """Best-fit decreasing needs at most 11/9 of the best possible number of rows, and one (Johnson 1973)."""
    dataset = dataset_of(new(tmp_path_factory), [n + 1 for n in inputs], divisible=False)
    rows = pack(dataset, length=10, packing="documents", seed=0)
    assert len(rows) <= 11 / 9 * max(-(-sum(inputs) // 10), sum(n > 5 for n in inputs)) + 1
    assert all(sum(rows.length[a:b, 0]) <= 10 for a, b in pairwise(rows.first.tolist()))


def test_a_batch_by_hand(folder: Path) -> None:
    ids = [[10, 11, 12], [20, 21, 22, 23, 24]]
    weights = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 1.0]]
    examples = [TokenExample.of(i, w) for i, w in zip(ids, weights, strict=True)]
    dataset = write_token_dataset(folder / "a", examples, vocab_size=30, divisible=False)
    batch = Batches([dataset], [1.0], length=8, packing="documents", sequences=1, seed=0).batch(0).lanes[0]
    assert batch.ids_BT.tolist() == [[20, 21, 22, 23, 10, 11, 0, 0]]
    assert batch.targets_BT.tolist() == [[21, 22, 23, 24, 11, 12, 0, 0]]
    assert batch.weights_BT.tolist() == [[1, 0, 1, 1, 0, 1, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]
    dtypes = (batch.ids_BT.dtype, batch.targets_BT.dtype, batch.weights_BT.dtype, batch.positions_BT.dtype)
    assert dtypes == (torch.int64, torch.int64, torch.float32, torch.int64)


def test_text_that_goes_on_in_the_next_row(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [6], divisible=True)  # ids 1 to 6
    first, second = (
        batch.lanes[0].ids_BT.tolist()[0]
        for batch in validation_batches(dataset, length=3, packing="documents", sequences=1)
    )
    assert (first, second) == ([1, 2, 3], [4, 5, 0])


def same(a: RowBatch, b: RowBatch) -> bool:
    pairs = zip(a.lanes, b.lanes, strict=True)
    return all(torch.equal(getattr(x, f), getattr(y, f)) for x, y in pairs for f in Lane.__dataclass_fields__)


@given(
    sizes=lengths,
    weight=st.sampled_from([0.3, 1.0, 1.7, 2.0]),
    sequences=st.integers(1, 5),
    order=st.permutations(range(12)),
)
def test_any_step_at_any_time_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], weight: float, sequences: int, order: list[int]
) -> None:
    dataset = dataset_of(new(tmp_path_factory), [*sizes, 5], divisible=True)

    def fresh() -> Batches:
        return Batches([dataset], [weight], length=4, packing="documents", sequences=sequences, seed=7)

    one = fresh()
    forward = [one.batch(step) for step in range(12)]
    other = fresh()
    assert all(same(other.batch(step), forward[step]) for step in order)


def test_the_batch_does_not_change_the_order_of_rows(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [50, 60, 70], divisible=True)

    def rows(sequences: int) -> torch.Tensor:
        batches = Batches([dataset], [1.0], length=4, packing="documents", sequences=sequences, seed=7)
        return torch.cat([batches.batch(step).lanes[0].ids_BT for step in range(24 // sequences)])

    assert torch.equal(rows(2), rows(6))


def test_epochs_and_seeds_have_their_own_order(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [200], divisible=True)

    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches([dataset], [1.0], length=10, packing="documents", sequences=20, seed=seed)
        assert batches.num_rows == 20
        return [int(id) for id in batches.batch(epoch).lanes[0].ids_BT[:, 0]]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert len({tuple(o) for o in orders}) == 3
    assert len({tuple(sorted(o)) for o in orders}) == 1


def test_a_permutation_is_pinned() -> None:
    """A resumed run must see the same order under any later numpy."""
    assert shuffled(8, 42, 3).tolist() == [1, 6, 3, 4, 5, 2, 0, 7]
    assert shuffled(8, 42, 3, stream=1).tolist() == [1, 6, 7, 2, 0, 3, 5, 4]


def test_weights_of_sources(folder: Path) -> None:
    sizes = {"a": 41, "b": 81, "c": 21}
    datasets = [dataset_of(folder / name, [size], divisible=True) for name, size in sizes.items()]
    rows = [pack(d, length=10, packing="documents", seed=0) for d in datasets]
    assert [len(r) for r in rows] == [4, 8, 2]
    mixture = Mixture(rows, [2.0, 0.5, 0.1], seed=3)
    assert mixture.shown == [8, 4, 1]
    assert mixture.num_rows == 13
    epochs = [Counter(mixture[e * 13 + i] for i in range(13)) for e in range(6)]
    for counts in epochs:
        assert {place: n for place, n in counts.items() if place[0] == 0} == {(0, r): 2 for r in range(4)}
        assert all(n == 1 for (source, _), n in counts.items() if source > 0)
    assert len({frozenset(r for s, r in counts if s == 1) for counts in epochs}) > 1, "a fresh half each epoch"


def test_the_last_batch_may_be_short(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [51], divisible=True)
    batches = Batches([dataset], [1.0], length=10, packing="documents", sequences=4, seed=0)
    assert batches.batch(1, total_rows=5).lanes[0].ids_BT.shape == (1, 10)
    assert batches.batch(1).lanes[0].ids_BT.shape == (4, 10)
    with pytest.raises(ValueError, match="past the end"):
        batches.batch(2, total_rows=8)


def test_documents_of_a_batch_are_named_through_all_datasets(folder: Path) -> None:
    datasets = [dataset_of(folder / "a", [5, 5, 5], divisible=False), dataset_of(folder / "b", [5, 5], divisible=False)]
    batches = Batches(datasets, [1.0, 1.0], length=4, packing="none", sequences=5, seed=0)
    assert batches.documents(0) == [0, 1, 2, 3, 4]


def test_validation_shows_every_row_once_in_one_order(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [9, 20, 5], divisible=True)
    once, again = (list(validation_batches(dataset, length=4, packing="documents", sequences=3)) for _ in range(2))
    assert all(map(same, once, again))
    assert Counter(id for batch in once for id in learned(batch)).total() == 8 + 19 + 4


def test_there_must_be_a_row(folder: Path) -> None:
    dataset = dataset_of(folder / "a", [1, 0], divisible=True)
    assert len(pack(dataset, length=4, packing="documents", seed=0)) == 0
    with pytest.raises(ValueError, match="no row"):
        Batches([dataset], [1.0], length=4, packing="documents", sequences=1, seed=0)


def test_packing_many_examples_is_quick_and_tight(folder: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 900, 200_000)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = _best_fit(np.minimum(np.diff(offsets) - 1, 512), 512)
    filled = np.bincount(rows, np.minimum(sizes - 1, 512))
    assert filled.max() <= 512
    assert filled.mean() > 0.97 * 512
