"""Format `text`: {"text": "…"}, or a plain text file."""

from typing import Any, ClassVar

from core.data.examples import Document
from core.data.records import check_keys, text_of


class Text:
    kind: ClassVar[str] = "text"
    keys: ClassVar[tuple[str, ...]] = ("text",)
    yields: ClassVar[type] = Document

    @staticmethod
    def parse(record: dict[str, Any]) -> Document:
        text = text_of(record, "text", where="the row")
        check_keys(record, known=Text.keys, where="the row")
        if not text:
            raise ValueError("the row's 'text' is empty; remove the row")
        return Document(text)
