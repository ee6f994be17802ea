"""What a person wants to know of a file before training on it, counted row by row: the same words for all formats."""

from collections import Counter

from core.data.examples import (
    Conversation,
    Document,
    Example,
    GradedPrompt,
    Judged,
    Labelled,
    Preference,
    PromptCompletion,
    Question,
    Scored,
    Similar,
    Tagged,
    TextPair,
    characters,
    labels_of,
)

Facts = dict[str, int | float | dict[str, int | float]]
MAX_LABELS = 10_000
"""classes or tags in a file"""
MAX_SHOWN = 100


class Tally:
    """Counts of a file's examples."""

    def __init__(self) -> None:
        self.num_examples = 0
        self.num_characters = 0
        self._labels: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._groups: dict[str, Counter[str]] = {}
        self._characters: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._scores: list[float] = []
        """least, sum, greatest"""

    def add(self, example: Example) -> None:
        """
        Raises:
            ValueError: too many classes; the example is not counted.
        """
        self._add_labels(example)
        self.num_examples += 1
        self.num_characters += characters(example)
        for name, size in _parts(example):
            self._characters[name] += size
            self._rows[name] += 1
        match example:
            case Conversation():
                self._add_conversation(example)
            case Preference(chosen, rejected):
                self._counts["chosen_is_longer"] += _answer(chosen) > _answer(rejected)
            case Judged(is_good=is_good):
                self._counts["good" if is_good else "bad"] += 1
            case Labelled(labels=labels):
                self._counts["without_label"] += not labels
            case Scored(value=value):
                least, total, greatest = self._scores or (value, 0.0, value)
                self._scores = [min(least, value), total + value, max(greatest, value)]
            case Tagged(words):
                self._counts["words"] += len(words)
            case Question(answer=answer):
                self._counts["unanswerable"] += not answer
            case GradedPrompt(item=item):
                keys = self._group("item_keys")
                keys.update(key for key in item if key in keys or len(keys) < MAX_SHOWN)
            case _:
                pass

    def _add_labels(self, example: Example) -> None:
        names = Counter(labels_of(example))
        if len(self._labels) + len(names) > MAX_LABELS and len(self._labels.keys() | names.keys()) > MAX_LABELS:
            kind = "tag" if isinstance(example, Tagged) else "class"
            new = next(name for name in names if name not in self._labels)
            raise ValueError(
                f"{new[:80]!r} would be {kind} number {MAX_LABELS + 1}; at most {MAX_LABELS} are allowed: "
                "give names that occur again and again, not texts or ids"
            )
        self._labels.update(names)

    def _add_conversation(self, example: Conversation) -> None:
        self._group("messages").update(turn.role for turn in example.turns)
        self._counts["learned_messages"] += sum(1 for turn in example.turns if turn.weight)
        self._counts["with_tools"] += bool(example.tools)

    def _group(self, name: str) -> Counter[str]:
        return self._groups.setdefault(name, Counter())

    def facts(self) -> Facts:
        """Numbers by name, and numbers by name within a name; what is absent from the data is not there."""
        facts: Facts = {name: number for name, number in self._counts.items() if number}
        for name, group in self._groups.items():
            facts[name] = dict(group)
        if self._labels:
            facts["num_labels"] = len(self._labels)
            facts["labels"] = dict(self._labels.most_common(MAX_SHOWN))
        if self._scores:
            least, total, greatest = self._scores
            facts["score"] = {"least": least, "mean": total / self.num_examples, "greatest": greatest}
        for name in ("pair", "negative"):
            if self._rows[name]:
                facts[f"with_{name}"] = self._rows[name]
        if self._characters:
            means = {name: round(size / self._rows[name], 1) for name, size in self._characters.items()}
            facts["mean_characters"] = {**means}
        return facts


def _parts(example: Example) -> list[tuple[str, int]]:
    """Characters of each part of an example."""
    match example:
        case Document(text):
            return [("text", len(text))]
        case Conversation():
            return [("prompt", characters(example) - _answer(example)), ("learned", _answer(example))]
        case PromptCompletion(prompt, completion):
            return [("prompt", len(prompt)), ("completion", len(completion))]
        case Preference(chosen, rejected):
            asked = characters(chosen) - _answer(chosen)
            return [("prompt", asked), ("chosen", _answer(chosen)), ("rejected", _answer(rejected))]
        case Judged(judged):
            return [("prompt", characters(judged) - _answer(judged)), ("completion", _answer(judged))]
        case Labelled(text, pair) | Scored(text, pair):
            return [("text", len(text)), *([] if pair is None else [("pair", len(pair))])]
        case Tagged(words):
            return [("row", sum(map(len, words)))]
        case Question(question, context, answer):
            answers = [("answer", len(answer))] if answer else []
            return [("question", len(question)), ("context", len(context)), *answers]
        case TextPair(source, target):
            return [("source", len(source)), ("target", len(target))]
        case Similar(anchor, positive, negative):
            negatives = [] if negative is None else [("negative", len(negative))]
            return [("anchor", len(anchor)), ("positive", len(positive)), *negatives]
        case GradedPrompt():
            return [("prompt", characters(example))]


def _answer(example: Conversation | PromptCompletion) -> int:
    """Characters of what is learned."""
    if isinstance(example, PromptCompletion):
        return len(example.completion)
    return sum(len(turn.content) for turn in example.turns if turn.weight)
