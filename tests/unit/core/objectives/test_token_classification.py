"""Chunks as the evaluation of CoNLL-2000 counts them, from sums alone."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.chunks import Chunk, chunks, read_tag
from core.loss import TagStats
from core.objectives.token_classification import TokenClassification
from core.training.stats.tags import chunk_kinds
from core.training.sums import Sums

BIO = ("B-NP", "B-VP", "I-NP", "I-VP", "O")
BIOES = ("B-X", "E-X", "I-X", "I-Y", "O", "S-X")
PLAIN = ("DT", "NN", "O", "VB")
OBJECTIVE = TokenClassification()


def stats(said: Sequence[Sequence[int]], true: Sequence[Sequence[int]], labels: Sequence[str]) -> TagStats:
    """Examples, each a list of tags' numbers."""
    flat = torch.tensor([tag for example in said for tag in example])
    logits_NC = torch.nn.functional.one_hot(flat, len(labels)).float()
    tags_N = torch.tensor([tag for example in true for tag in example])
    example_N = torch.tensor([number for number, example in enumerate(true) for _ in example])
    return TagStats(logits_NC, tags_N, example_N, *chunk_kinds(labels, torch.device("cpu")))


def by_hand(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Chunks of one example, word by word: the rules of conlleval, which nothing here shares code with."""
    found, kind, first = set(), "", 0
    for at, name in enumerate([*tags, "O"]):
        prefix, _, this = name.partition("-")
        before = tags[at - 1].partition("-")[0] if at else "O"
        ends = kind and (prefix in "OBS" or this != kind or before in "ES")
        if ends:
            found.add((kind, first, at - 1))
            kind = ""
        if prefix != "O" and not kind:
            kind, first = this, at
    return found


def test_a_sentence_of_the_task() -> None:
    """[NP He] [VP reckons] [NP the deficit]: the second phrase is said too long, the third is right."""
    labels = BIO
    true = [labels.index(tag) for tag in ("B-NP", "B-VP", "B-NP", "I-NP")]
    said = [labels.index(tag) for tag in ("B-NP", "B-NP", "B-NP", "I-NP")]
    loss = OBJECTIVE.loss(stats([said], [true], labels))
    counts = {name: [float(value)] for name, value in loss.counts.items()}
    assert counts == {"found": [2.0], "said": [3.0], "there": [3.0]}
    found = OBJECTIVE.summary(counts, labels)
    assert found == pytest.approx({"chunk_precision": 2 / 3, "chunk_recall": 2 / 3, "chunk_f1": 2 / 3})
    right = math.log(math.e + 4)
    assert float(loss.sum) == pytest.approx(3 * (right - 1) + right, abs=1e-5)
    assert (float(loss.count), float(loss.metrics["token_accuracy"])) == (4.0, 3.0)


@given(
    st.sampled_from([BIO, BIOES]).flatmap(
        lambda labels: st.tuples(
            st.just(labels),
            st.lists(
                st.integers(1, 8).flatmap(
                    lambda size: st.tuples(
                        *[st.lists(st.integers(0, len(labels) - 1), min_size=size, max_size=size)] * 2
                    )
                ),
                min_size=1,
                max_size=6,
            ),
        )
    )
)
def test_sums_equal_the_chunks_found_one_by_one(
    case: tuple[tuple[str, ...], list[tuple[list[int], list[int]]]],
) -> None:
    labels, examples = case
    sums = Sums()
    for part in (examples[:2], examples[2:]):
        if part:
            sums.add(OBJECTIVE.loss(stats([said for said, _ in part], [true for _, true in part], labels)))
    pairs = [tuple(by_hand([labels[tag] for tag in tags]) for tags in example) for example in examples]
    assert sums.summed_counts == {
        "found": [sum(len(said & true) for said, true in pairs)],
        "said": [sum(len(said) for said, _ in pairs)],
        "there": [sum(len(true) for _, true in pairs)],
    }


@given(st.lists(st.sampled_from(BIOES), max_size=12))
def test_chunks_of_a_list_are_the_same(tags: list[str]) -> None:
    found = chunks([read_tag(tag, BIOES) for tag in tags])
    assert {(chunk.kind, chunk.first, chunk.last) for chunk in found} == by_hand(tags)


def test_without_prefixes_each_word_is_a_chunk() -> None:
    assert list(chunks([read_tag(tag, PLAIN) for tag in ("NN", "NN", "O", "VB")])) == [
        Chunk("NN", 0, 0),
        Chunk("NN", 1, 1),
        Chunk("VB", 3, 3),
    ]
    loss = OBJECTIVE.loss(stats([[1, 1, 2, 3]], [[1, 0, 2, 3]], PLAIN))
    assert {name: float(value) for name, value in loss.counts.items()} == {"found": 2.0, "said": 3.0, "there": 3.0}
