"""Values worked out by hand, and the edges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics.bleu import Bleu
from core.metrics.chrf import ChrF
from core.metrics.exact_match import ExactMatch
from core.metrics.f1 import WordF1, class_f1, f1
from core.metrics.gleu import sentence_gleu
from core.metrics.rouge import Rouge
from core.metrics.subsequence import longest_common_subsequence, similarity


def test_bleu() -> None:
    bleu = Bleu()
    bleu.add("the cat sat on it", "the cat sat on the mat")
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 runs of four; one word too short
    expected = 100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu.value == pytest.approx(expected, abs=1e-9)


def test_chrf() -> None:
    chrf = ChrF()
    chrf.add("ab", "a b c")
    # single characters: 2 of 2 and 2 of 3; pairs: 1 of 1 and 1 of 2; longer runs the hypothesis has none of
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert chrf.value == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall), abs=1e-9)


def test_gleu() -> None:
    # "a b c": 3 + 2 + 1 runs, "a b": 2 + 1, all of which are shared
    assert sentence_gleu("a b", "a b c") == pytest.approx(3 / 6)
    assert sentence_gleu("", "") == 0.0


def test_rouge() -> None:
    longest = Rouge("l")
    longest.add("police kill the gunman", "police killed the gunman")  # Lin 2004, section 3: 3 of 4 and 3 of 4
    assert longest.value == pytest.approx(0.75)
    longest.add("the gunman kill police", "police killed the gunman")  # 2 of 4
    assert longest.value == pytest.approx((0.75 + 0.5) / 2)


def test_answers() -> None:
    exact, share = ExactMatch(), WordF1()
    for hypothesis, reference in [("The  Eiffel tower!", "eiffel tower"), ("in Paris", "Paris"), ("伦敦。", "伦敦")]:
        exact.add(hypothesis, reference)
        share.add(hypothesis, reference)
    assert exact.value == pytest.approx(2 / 3)
    assert share.value == pytest.approx((1 + 2 / 3 + 1) / 3)
    share.add("the", "a")
    assert share.value == pytest.approx((1 + 2 / 3 + 1 + 1) / 4), "no answer where none is wanted is right"


def test_f1_of_classes() -> None:
    assert f1(6, 2, 1) == pytest.approx(2 * (6 / 8) * (6 / 7) / (6 / 8 + 6 / 7))
    found = class_f1([1, 0, 2], [1, 0, 0], [0, 0, 1])
    assert found.each == pytest.approx((2 / 3, 0.0, 4 / 5))
    assert found.macro == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.micro == pytest.approx(6 / 8)


@pytest.mark.parametrize("metric", [Bleu, ChrF, ExactMatch, WordF1, lambda: Rouge(1)])
def test_nothing_is_zero(metric: type[Bleu]) -> None:
    assert metric().value == 0.0


@given(st.text(alphabet="abc", max_size=12), st.text(alphabet="abc", max_size=12))
def test_longest_common_subsequence_is_what_the_table_says(one: str, other: str) -> None:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(one, other) == table[-1][-1]


def test_similarity() -> None:
    assert similarity("abcd", "abxd") == pytest.approx(6 / 8)
    assert similarity("", "") == 1.0
    assert similarity("", "x") == 0.0
    assert similarity("相同", "相同") == 1.0
