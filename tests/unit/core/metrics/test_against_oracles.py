# ruff: noqa: RUF001
"""Our metrics against the packages by which the field reports them, on made-up, English and Chinese text."""

import random
import sys
from typing import Any

import absl.logging
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.gleu_score import sentence_gleu as nltk_gleu
from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh
from sklearn.metrics import f1_score

from core.metrics.bleu import Bleu, sentence_bleu
from core.metrics.chrf import ChrF
from core.metrics.f1 import class_f1
from core.metrics.gleu import sentence_gleu
from core.metrics.rouge import Rouge, Variant
from core.metrics.tokenization import Tokenize, thirteen_a, tokenize_like, words, zh

# rouge-score brings absl, which would close pytest's captured stderr when someone configures logging anew.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

ENGLISH = [
    ("The cat sat on the mat.", "The cat is sitting on the mat."),
    ("It costs $3.50, i.e. 4,000 won -- or so", "It cost $3.50 (4,000 won), or so..."),
    ("&quot;Well-known&quot; 1990-2000 results &amp; others", '"Well-known" results of 1990-2000 & others'),
    ("short", "a rather longer reference"),
    ("", "nothing was said"),
    ("nothing was wanted", ""),
    ("one two three four five", "one two three four five"),
]
CHINESE = [
    ("床前明月光，疑是地上霜。", "床前看月光，疑是地上霜。"),
    ("举头望明月，低头思故乡！", "举头望山月，低头思故乡。"),
    ("他在2024年花了3.5万元买了一台iPhone", "2024年，他用3.5万元买了iPhone。"),
    ("“你好”——世界…", "「你好」，世界……"),
    ("一", "一二三"),
    ("完全不同", "毫无关联"),
]
texts = st.text(alphabet="ab cd.,-57&;<>\n!字月，。“—ß é", max_size=30)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)


def mixed(seed: int) -> list[tuple[str, str]]:
    """Sentences of a small vocabulary, the hypothesis a shuffled copy with gaps."""
    random_ = random.Random(seed)
    vocabulary = ["the", "a", "cat", "dog", "runs,", "sits.", "3.14", "well-known", "猫", "在跑", "。", "U.S."]
    made = []
    for _ in range(20):
        reference = random_.choices(vocabulary, k=random_.randint(1, 20))
        hypothesis = [word for word in reference if random_.random() < 0.8]
        for _ in range(random_.randint(0, 3)):
            hypothesis.insert(random_.randint(0, len(hypothesis)), random_.choice(vocabulary))
        made.append((" ".join(hypothesis), " ".join(reference)))
    return made


CORPORA = [ENGLISH, CHINESE, ENGLISH + CHINESE, mixed(1), mixed(2)]


@pytest.mark.parametrize(("ours", "name"), [(thirteen_a, "13a"), (zh, "zh")])
@pytest.mark.parametrize("corpus", CORPORA)
def test_bleu_of_a_corpus(corpus: list[tuple[str, str]], ours: Tokenize, name: str) -> None:
    bleu = Bleu(ours)
    for hypothesis, reference in corpus:
        bleu.add(hypothesis, reference)
    said, wanted = zip(*corpus, strict=True)
    assert bleu.value == pytest.approx(BLEU(tokenize=name).corpus_score(said, [wanted]).score, abs=1e-6)


@given(pairs)
@settings(max_examples=100, deadline=None)
def test_bleu_and_chrf_of_anything(corpus: list[tuple[str, str]]) -> None:
    bleu, chrf = Bleu(zh), ChrF()
    for hypothesis, reference in corpus:
        bleu.add(hypothesis, reference)
        chrf.add(hypothesis, reference)
    said, wanted = zip(*corpus, strict=True)
    assert bleu.value == pytest.approx(BLEU(tokenize="zh").corpus_score(said, [wanted]).score, abs=1e-6)
    assert chrf.value == pytest.approx(CHRF().corpus_score(said, [wanted]).score, abs=1e-6)


@pytest.mark.parametrize("corpus", CORPORA)
def test_bleu_and_gleu_of_a_sentence(corpus: list[tuple[str, str]]) -> None:
    for hypothesis, reference in corpus:
        tokenize = tokenize_like(reference)
        oracle = BLEU(tokenize="zh" if tokenize is zh else "13a", effective_order=True)
        expected = oracle.sentence_score(hypothesis, [reference]).score
        assert sentence_bleu(hypothesis, reference) == pytest.approx(expected, abs=1e-6)
        expected = nltk_gleu([tokenize(reference)], tokenize(hypothesis))
        assert sentence_gleu(hypothesis, reference) == pytest.approx(expected, abs=1e-9)


@given(st.text(max_size=40) | texts)
@settings(max_examples=200, deadline=None)
def test_words_are_cut_as_sacrebleu_cuts_them(text: str) -> None:
    assert thirteen_a(text) == Tokenizer13a()(text.rstrip()).split()
    assert zh(text) == TokenizerZh()(text.rstrip()).split()


@pytest.mark.parametrize("corpus", CORPORA)
def test_chrf_of_a_corpus(corpus: list[tuple[str, str]]) -> None:
    chrf = ChrF()
    for hypothesis, reference in corpus:
        chrf.add(hypothesis, reference)
    said, wanted = zip(*corpus, strict=True)
    assert chrf.value == pytest.approx(CHRF().corpus_score(said, [wanted]).score, abs=1e-6)


class ByOurWords:
    """For Chinese, of which rouge-score's own tokenizer leaves nothing."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@pytest.mark.parametrize("variant", [1, 2, 3, 4, 5, "l"])
@pytest.mark.parametrize(
    ("corpus", "tokenizer"),
    [(ENGLISH, None), (CHINESE, ByOurWords()), (mixed(1), ByOurWords()), (mixed(2), ByOurWords())],
)
def test_rouge(corpus: list[tuple[str, str]], tokenizer: Any, variant: Variant) -> None:
    name = f"rouge{str(variant).upper()}"
    scorer = rouge_scorer.RougeScorer([name], tokenizer=tokenizer)
    mine, expected = Rouge(variant), 0.0
    for hypothesis, reference in corpus:
        mine.add(hypothesis, reference)
        expected += scorer.score(reference, hypothesis)[name].fmeasure
    assert mine.value == pytest.approx(expected / len(corpus), abs=1e-9)


def test_f1_of_classes() -> None:
    random_ = random.Random(3)
    truth, said = ([random_.randrange(4) for _ in range(50)] for _ in range(2))
    pairs = list(zip(truth, said, strict=True))
    hits = [sum(t == s == c for t, s in pairs) for c in range(5)]
    false = [sum(s == c != t for t, s in pairs) for c in range(5)]
    missed = [sum(t == c != s for t, s in pairs) for c in range(5)]
    found = class_f1(hits, false, missed)
    assert found.macro == pytest.approx(f1_score(truth, said, average="macro"))
    assert found.micro == pytest.approx(f1_score(truth, said, average="micro"))
    assert found.each[:4] == pytest.approx(f1_score(truth, said, average=None))
    assert found.each[4] == 0.0
