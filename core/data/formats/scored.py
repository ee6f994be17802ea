"""Format `scored`: {"text": "…", "score": a number}; "sentence" may stand for "text", "pair" holds a second text."""

from typing import Any, ClassVar

from core.data.examples import Scored
from core.data.records import ROW, check_keys, filled_text_of, number_of, optional_text_of


class ScoredFormat:
    kind: ClassVar[str] = "scored"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "score"), ("sentence", "score"))
    yields: ClassVar[type] = Scored

    @staticmethod
    def parse(record: dict[str, Any]) -> Scored:
        text = "sentence" if record.get("text") is None and "sentence" in record else "text"
        check_keys(record, known=(text, "pair", "score"), where=ROW)
        return Scored(filled_text_of(record, text), optional_text_of(record, "pair"), number_of(record, "score"))
