"""Format `question`: {"question": "…", "context": "…", "answer": "…", "answer_start": 12}, or as SQuAD writes it,
{…, "answers": {"text": ["…"], "answer_start": [12]}}.

The answer stands in the context, from that character on (counted from 0, in Unicode characters). Of several answers
the first is learned. An empty answer, or none, means that the context does not answer the question. `answer_start` may
be left out where the context has the answer once.
"""

from typing import Any, ClassVar

from core.data.examples import Question
from core.data.records import ROW, check_keys, filled_text_of, number_of, optional_text_of, shown, text_of


class QuestionFormat:
    kind: ClassVar[str] = "question"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question", "context", "answers"),
        ("question", "context", "answer"),
        ("question", "context"),
    )
    yields: ClassVar[type] = Question

    @staticmethod
    def parse(record: dict[str, Any]) -> Question:
        squad = record.get("answers") is not None
        answer_keys = ("answers",) if squad else ("answer", "answer_start")
        check_keys(record, known=("question", "context", *answer_keys), where=ROW)
        question, context = filled_text_of(record, "question"), filled_text_of(record, "context")
        answer, start = _first(record["answers"]) if squad else _only(record)
        if not answer:
            return Question(question, context, "", -1)
        return Question(question, context, answer, _place(context, answer, start))


def _first(answers: object) -> tuple[str, int | None]:
    """SQuAD's first answer and where it is said to stand; "" where there is none."""
    texts = answers.get("text") if isinstance(answers, dict) else None
    starts = answers.get("answer_start") if isinstance(answers, dict) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(
            f"'answers' is {shown(answers)}; give {{'text': ['…'], 'answer_start': [0]}} with as many places as texts, "
            "both empty where the context has no answer"
        )
    if not texts:
        return "", None
    first = {"text": texts[0], "answer_start": starts[0]}
    return text_of(first, "text", where="'answers'"), _start(first, where="'answers'")


def _only(record: dict[str, Any]) -> tuple[str, int | None]:
    return optional_text_of(record, "answer") or "", _start(record, where=ROW)


def _start(record: dict[str, Any], *, where: str) -> int | None:
    if record.get("answer_start") in (None, ""):
        return None
    start = number_of(record, "answer_start", where=where)
    if start != int(start):
        raise ValueError(f"{where}: 'answer_start' is {start:g}; give a whole number of characters")
    return int(start)


def _place(context: str, answer: str, start: int | None) -> int:
    """Where the answer stands, checked.

    Raises:
        ValueError: it does not stand there, or it is not said which of several places is meant.
    """
    where = context.find(answer)
    if where < 0:
        raise ValueError(f"the context does not contain the answer {shown(answer)}; copy the answer from the context")
    if start is None:
        if context.find(answer, where + 1) >= 0:
            raise ValueError(
                f"the context has the answer {shown(answer)} more than once; say by 'answer_start' which is meant"
            )
        return where
    if start < 0 or context[start : start + len(answer)] != answer:
        there = shown(context[start : start + len(answer)]) if 0 <= start < len(context) else "nothing"
        raise ValueError(
            f"at character {start} of the context stands {there}, not the answer {shown(answer)}, which stands at "
            f"{where}; count Unicode characters from 0, not bytes"
        )
    return start
