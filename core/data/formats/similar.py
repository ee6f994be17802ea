"""Format `similar`: {"anchor": "…", "positive": "…"}, also with "negative", for embeddings."""

from typing import Any, ClassVar

from core.data.examples import Similar
from core.data.records import ROW, check_keys, filled_text_of, optional_text_of


class SimilarFormat:
    kind: ClassVar[str] = "similar"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("anchor", "positive"),)
    yields: ClassVar[type] = Similar

    @staticmethod
    def parse(record: dict[str, Any]) -> Similar:
        check_keys(record, known=("anchor", "positive", "negative"), where=ROW)
        anchor, positive = filled_text_of(record, "anchor"), filled_text_of(record, "positive")
        negative = optional_text_of(record, "negative")
        if negative is not None and not negative.strip():
            raise ValueError("the row's 'negative' is only white space; fill it in, or leave it out of all rows")
        if negative in (anchor, positive):
            raise ValueError(
                "the row's 'negative' is the same as its anchor or positive; give one that means something else"
            )
        return Similar(anchor, positive, negative)
