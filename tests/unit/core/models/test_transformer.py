"""Packed rows, masks and caches, for every family: a document computes the same wherever it stands."""

from typing import Any

import pytest
import torch
from torch import Tensor

from core.generation.kv_cache import KVCache
from core.models.attention import (
    Past,
    by_distance,
    cross_attention,
    growing_attention,
    memory_attention,
    packed_attention,
)
from core.models.blocks import distance_buckets, sinusoids
from core.models.heads import pool
from core.models.shapes import shapes
from core.models.transformer import Transformer
from tests.unit.core.models.conftest import Make
from tests.unit.core.models.tiny import (
    ALL,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    LABELS,
    LANGUAGE_MODELS,
    Case,
    hidden_states,
    made,
    positions,
    texts,
)

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def logits(model: Transformer, ids_BT: Tensor, segments_BT: Tensor | None = None, kind: str = "math") -> Tensor:
    return model.logits(hidden_states(model, ids_BT, segments_BT, kind=kind))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_parameters_are_known_without_building_them(case: Case) -> None:
    config = case.config()
    built = {name: tuple(parameter.shape) for name, parameter in Transformer(config).named_parameters()}
    assert shapes(config) == built
    assert list(shapes(config)) == list(built)
    assert config.num_parameters() == sum(parameter.numel() for parameter in Transformer(config).parameters())


@pytest.mark.parametrize("kind", ["math", "sdpa"])
@pytest.mark.parametrize("case", LANGUAGE_MODELS, ids=str)
def test_documents_of_a_row_do_not_see_each_other(case: Case, kind: str) -> None:
    model = made(case.config())
    ids_BT = torch.cat((texts(1, 7), texts(1, 11, seed=5), torch.zeros(1, 3, dtype=torch.long)), 1)
    segments_BT = torch.tensor([[1] * 7 + [2] * 11 + [0] * 3])
    given: dict[str, Any] = {"kind": kind}
    alone: list[dict[str, Any]] = [{"kind": kind}, {"kind": kind}]
    if model.config.kind == "encoder_decoder":
        sources = texts(1, 9, seed=6), texts(1, 4, seed=7)
        given |= {
            "source_BS": torch.cat(sources, 1),
            "source_segments_BS": torch.tensor([[1] * 9 + [2] * 4]),  # no padding, though the target has some
        }
        alone = [{"kind": kind, "source_BS": source} for source in sources]
    together = model.logits(hidden_states(model, ids_BT, segments_BT, **given))[0]
    assert together.isfinite().all()  # padding too: a NaN there would reach the gradients
    first = model.logits(hidden_states(model, ids_BT[:, :7], **alone[0]))[0]
    second = model.logits(hidden_states(model, ids_BT[:, 7:18], **alone[1]))[0]
    assert second.std() > 0.05
    torch.testing.assert_close(together[:7], first, **CLOSE)
    torch.testing.assert_close(together[7:18], second, **CLOSE)
    changed_BT = ids_BT.clone()
    changed_BT[0, 2] = 50
    changed = model.logits(hidden_states(model, changed_BT, segments_BT, **given))[0]
    assert torch.equal(changed[7:18], together[7:18])
    assert not torch.equal(changed[:7], together[:7])


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_a_decoder_sees_nothing_after_a_position_and_an_encoder_does(case: Case) -> None:
    ids_BT = torch.arange(12)[None]
    changed_BT = ids_BT.clone()
    changed_BT[0, 6:] = 40
    model = made(case.config())
    assert torch.equal(logits(model, ids_BT)[0, :6], logits(model, changed_BT)[0, :6])
    encoder = made(ENCODERS[0].config())
    assert not torch.isclose(logits(encoder, ids_BT)[0, :6], logits(encoder, changed_BT)[0, :6]).all(-1).any()


@pytest.mark.parametrize("kind", ["math", "sdpa"])
def test_a_prefix_is_seen_by_all_of_its_segment(kind: Any) -> None:
    """Segments of 4 and 3 with prefixes of 2. Values are one-hot, keys zero: the output says what is seen."""
    segments_BT = torch.tensor([[1, 1, 1, 1, 2, 2, 2]])
    prefix_BT = torch.tensor([[True, True, False, False, True, True, False]])
    zeros = torch.zeros(1, 1, 7, 8)
    seen_TS = packed_attention(segments_BT, kind=kind, prefix_BT=prefix_BT)(0)(zeros, zeros, torch.eye(7)[None, None])
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 1, 1, 1],
        ]
    )
    assert torch.equal((seen_TS[0, 0] > 0).long(), expected)
    assert seen_TS[0, 0, 2].tolist() == pytest.approx([1 / 3] * 3 + [0] * 4)


@pytest.mark.parametrize("kind", ["math", "sdpa"])
def test_across_lanes_segments_of_one_number_see_each_other(kind: Any) -> None:
    segments_BT, memory_BS = torch.tensor([[1, 1, 2, 0]]), torch.tensor([[1, 2, 2, 2, 2]])
    zeros = torch.zeros(1, 1, 5, 8)
    seen_TS = cross_attention(segments_BT, memory_BS, kind=kind)(0)(zeros[:, :, :4], zeros, torch.eye(5)[None, None])
    assert (seen_TS[0, 0] > 0).tolist()[:3] == [[True] + [False] * 4] * 2 + [[False] + [True] * 4]
    assert seen_TS.isfinite().all()


def test_both_kinds_of_attention_agree(make: Make) -> None:
    model = make(num_kv_heads=2)
    segments_BT = torch.tensor([[1] * 9 + [2] * 11, [1] * 15 + [0] * 5])
    math_kind, sdpa = logits(model, texts(2, 20), segments_BT, "math"), logits(model, texts(2, 20), segments_BT, "sdpa")
    torch.testing.assert_close(math_kind, sdpa, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_a_decoder_computed_piece_by_piece_is_the_same(case: Case) -> None:
    model, ids_BT, past = made(case.config()), texts(2, 12), {}
    attend = growing_attention(past)
    at, pieces = 0, []
    for size in (5, 3, 1, 1, 1, 1):
        positions_BT = torch.arange(at, at + size)[None].expand(2, -1)
        pieces.append(model(ids_BT[:, at : at + size], positions_BT, attend))
        at += size
    torch.testing.assert_close(torch.cat(pieces, 1), hidden_states(model, ids_BT), **CLOSE)


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_with_the_generators_cache_it_is_the_same(case: Case) -> None:
    """Two sequences of different lengths: their prompts alone, then a token each at once."""
    config = case.config()
    model, ids_BT, lengths = made(config), texts(2, 12), [5, 8]
    cache = KVCache(config, num_slots=3, context_length=64, dtype=torch.float32)
    slots = [cache.take(), cache.take()]
    with torch.inference_mode():
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            model(ids_BT[row : row + 1, :length], torch.arange(length)[None], cache.prefill(slot, 0, length))
        for step in range(3):
            at_B = torch.tensor(lengths) + step
            attend = cache.decode(slots, at_B.tolist())
            hidden_BTD = model(ids_BT[torch.arange(2), at_B][:, None], at_B[:, None], attend)
            for row in range(2):
                expected_TD = hidden_states(model, ids_BT[row : row + 1, : int(at_B[row]) + 1])[0]
                torch.testing.assert_close(hidden_BTD[row, 0], expected_TD[-1], **CLOSE)


@pytest.mark.parametrize("case", ENCODER_DECODERS, ids=str)
def test_a_decoder_with_a_memory_computed_piece_by_piece_is_the_same(case: Case) -> None:
    """Also past the distance from which on relative positions are the same, and with sources of two lengths."""
    config = case.config().model_copy(update={"context_length": 256})
    model, ids_BT, source_BS = made(config), texts(2, 150), texts(2, 10, seed=4)
    source_segments_BS = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    expected = hidden_states(model, ids_BT, source_BS=source_BS, source_segments_BS=source_segments_BS)
    attend_source = packed_attention(source_segments_BS, kind="math", see="all")
    memory_BSD: Tensor | None = model.encode(source_BS, positions(source_segments_BS), attend_source)
    own_past: Past = {}
    attend, attend_memory = growing_attention(own_past), memory_attention({}, source_segments_BS)
    at, pieces = 0, []
    for size in (1, 1, 144, 1, 1, 1, 1):
        positions_BT = torch.arange(at, at + size)[None].expand(2, -1)
        pieces.append(model.decode(ids_BT[:, at : at + size], positions_BT, attend, memory_BSD, attend_memory))
        at, memory_BSD = at + size, None
    torch.testing.assert_close(torch.cat(pieces, 1), expected, **CLOSE)
    assert own_past.keys() == {0, 1}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta"])
@pytest.mark.parametrize("head", ["classifier", "score", "embedding"])
def test_examples_of_a_row_get_what_they_get_alone(family: Any, head: Any) -> None:
    labels = {"labels": LABELS} if head == "classifier" else {}
    model = made(Case(family, head={"head": head, **labels}).config())
    ids_BT = texts(1, 18)
    segments_BT = torch.tensor([[1] * 7 + [2] * 8 + [0] * 3])
    hidden_BTD = hidden_states(model, ids_BT, segments_BT)
    together = model.per_example(hidden_BTD, segments_BT, num_examples=3)
    ones = torch.ones_like(ids_BT)
    for example, part in enumerate((slice(0, 7), slice(7, 15))):
        alone = model.per_example(hidden_states(model, ids_BT[:, part]), ones[:, part], num_examples=1)[0, 0]
        torch.testing.assert_close(together[0, example], alone, **CLOSE)
    assert together.shape == (1, 3, {"classifier": 3, "score": 1, "embedding": 32}[head])
    assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-3)
    if head == "embedding":
        assert together[0, :2].norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])


def test_pooling_takes_first_last_and_mean() -> None:
    hidden_BTD = torch.arange(12.0).view(1, 6, 2)
    segments_BT = torch.tensor([[1, 1, 1, 2, 2, 0]])
    first, last, mean = (
        pool(hidden_BTD, segments_BT, num_examples=2, how=how)[0].tolist() for how in ("first", "last", "mean")
    )
    assert first == [[0, 1], [6, 7]]
    assert last == [[4, 5], [8, 9]]
    assert mean == [[2, 3], [7, 8]]


def test_distances_fall_into_buckets() -> None:
    """The first half of the buckets is exact; from 128 on all is one; only both ways tells after from before."""
    before, both = distance_buckets(both_ways=False), distance_buckets(both_ways=True)
    at = 128  # distance 0
    assert before[at - 15 : at + 1].tolist() == list(range(15, -1, -1))
    assert before[at:].tolist() == [0] * 129
    assert (before[0], before[at - 16], before[at - 127]) == (31, 16, 31)
    assert both[at - 7 : at + 8].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    assert (both[0], both[-1]) == (15, 31)
    assert both[at - 8] == 8
    # 16 + log(20/16) / log(128/16) * 16 = 17.7
    assert before[at - 20] == 17


def test_biases_stand_at_their_distances() -> None:
    bias_HR = torch.arange(-2.0, 3.0)[None]  # its value is the distance, up to 2
    assert by_distance(bias_HR, 2, 5)[0].tolist() == [[-2, -2, -1, 0, 1], [-2, -2, -2, -1, 0]]


def test_sinusoids_are_the_papers() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), d = 4: sin 3, sin 0.03, cos 3, cos 0.03."""
    assert sinusoids(torch.tensor([[0, 3]]), 4)[0].tolist() == [
        pytest.approx([0, 0, 1, 1]),
        pytest.approx([0.14112001, 0.0299955, -0.9899925, 0.99955003]),
    ]
