"""What examples know about themselves."""

import pytest

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
    Turn,
    characters,
    labels_of,
    texts_of,
)

TALK = Conversation((Turn("user", "ab"), Turn("assistant", "cde", weight=1.0)))
ANSWER = PromptCompletion("p", "qq")


@pytest.mark.parametrize(
    ("example", "texts"),
    [
        (Document("é"), ["é"]),
        (TALK, ["ab", "cde"]),
        (ANSWER, ["p", "qq"]),
        (Preference(ANSWER, PromptCompletion("p", "")), ["p", "qq", "p", ""]),
        (Preference(TALK, TALK), ["ab", "cde", "ab", "cde"]),
        (Judged(TALK, is_good=False), ["ab", "cde"]),
        (Labelled("a", None, (("x", 1.0),)), ["a"]),
        (Labelled("a", "b", (), many=True), ["a", "b"]),
        (Scored("a", "b", 0.5), ["a", "b"]),
        (Tagged(("New", "York"), ("B", "I")), ["New", "York"]),
        (Question("q?", "a context", "context", 2), ["q?", "a context"]),
        (TextPair("s", "tt"), ["s", "tt"]),
        (Similar("a", "b"), ["a", "b"]),
        (Similar("a", "b", "c"), ["a", "b", "c"]),
        (GradedPrompt(Conversation((Turn("user", "2+2?"),)), {"reference_answer": "4"}), ["2+2?"]),
    ],
)
def test_texts_are_what_the_model_sees(example: Example, texts: list[str]) -> None:
    assert texts_of(example) == texts
    assert characters(example) == sum(len(text) for text in texts)


def test_labels_are_names_of_classes_or_tags() -> None:
    assert list(labels_of(Labelled("a", None, (("x", 0.6), ("y", 0.4))))) == ["x", "y"]
    assert list(labels_of(Tagged(("a", "b", "c"), ("O", "B-NP", "O")))) == ["O", "B-NP", "O"]
    assert list(labels_of(Scored("a", None, 1.0))) == []
