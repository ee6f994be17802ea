"""What each task's figure would be without learning anything but how often things occur."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from bench.learning.data import Row, Split, chunks_of
from core.metrics.bleu import Bleu

SPAN_LENGTH, KEPT = 3, 0.1
"""of span corruption: tokens of a hole; of masked LM: the share of chosen tokens that stays legible"""


def half(data: Split) -> float:
    """chance"""
    return 0.5


def nothing(data: Split) -> float:
    """the model before"""
    return 0.0


def anything(data: Split) -> float:
    """the model before"""
    return math.inf


def by_chance(rows: int) -> Callable[[Split], float]:
    def chance(data: Split) -> float:
        """chance"""
        return 1 / rows

    return chance


def unigram_bits(data: Split) -> float:
    """how often each byte occurs"""
    counts = Counter(byte for row in data.train for byte in row["text"].encode())
    total = sum(counts.values()) + 256
    held_out = [byte for row in data.held_out for byte in row["text"].encode()]
    return -sum(math.log2((counts[byte] + 1) / total) for byte in held_out) / len(held_out)


def commonest_byte(data: Split) -> float:
    """the commonest byte"""
    return _commonest(row["completion" if "completion" in row else "text"] for row in data.held_out)


def commonest_or_kept(data: Split) -> float:
    """what stayed legible, else the commonest byte"""
    return KEPT + (1 - KEPT) * commonest_byte(data)


def commonest_or_sentinel(data: Split) -> float:
    """every sentinel, else the commonest byte"""
    return (1 + SPAN_LENGTH * commonest_byte(data)) / (1 + SPAN_LENGTH)


def _commonest(texts: Iterable[str]) -> float:
    counts = Counter(byte for text in texts for byte in text.encode())
    return max(counts.values()) / sum(counts.values())


def commonest_label(data: Split) -> float:
    """the commonest label"""
    counts = Counter(row["label"] for row in data.held_out)
    return max(counts.values()) / sum(counts.values())


def variance(data: Split) -> float:
    """the mean"""
    values = [row["score"] for row in data.held_out]
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def copied(data: Split) -> float:
    """the source itself"""
    bleu = Bleu()
    for row in data.held_out:
        bleu.add(row["source"], row["target"])
    return bleu.value


def tag_of_word(data: Split) -> float:
    """each word's commonest tag"""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in data.train:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[word][tag] += 1
    overall = Counter(tag for row in data.train for tag in row["tags"]).most_common(1)[0][0]
    right = said = there = 0
    for row in data.held_out:
        tags = [seen[word].most_common(1)[0][0] if word in seen else overall for word in row["tokens"]]
        ours, theirs = set(chunks_of(tags)), set(chunks_of(row["tags"]))
        right, said, there = right + len(ours & theirs), said + len(ours), there + len(theirs)
    return 2 * right / (said + there)


def words_before(data: Split) -> float:
    """the one, two or three words before the verb"""

    def share(number: int) -> float:
        hits = [_before(row, number) == row["answer"] for row in data.held_out]
        return sum(hits) / len(hits)

    return max(share(number) for number in (1, 2, 3))


def _before(row: Row, number: int) -> str:
    verb = row["question"].removeprefix("Who or what ").removesuffix("?")
    return " ".join(row["context"].partition(f" {verb}")[0].split()[-number:])


def longer(data: Split) -> float:
    """the longer answer, the shorter one, or chance"""
    wins = [len(row["chosen"]["value"]) > len(row["rejected"]["value"]) for row in data.held_out]
    share = sum(wins) / len(wins)
    return max(share, 1 - share)


def long_enough(data: Split) -> float:
    """good from some length on, or below it; or chance"""
    answers = [(len(row["messages"][-1]["content"]), row["label"]) for row in data.held_out]
    good = [length for length, label in answers if label]
    bad = [length for length, label in answers if not label]

    def right(cut: int) -> float:
        share = sum(x > cut for x in good) / len(good) + sum(x <= cut for x in bad) / len(bad)
        return max(share, 2 - share) / 2

    return max(right(cut) for cut, _ in answers)
