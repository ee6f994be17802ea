"""Format `text`: {"text": "…"}, or a plain text file."""

from typing import Any, ClassVar

from core.data.examples import Document
from core.data.records import ROW, check_keys, text_of


class Text:
    kind: ClassVar[str] = "text"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)
    yields: ClassVar[type] = Document

    @staticmethod
    def parse(record: dict[str, Any]) -> Document:
        text = text_of(record, "text", where=ROW)
        check_keys(record, known=("text",), where=ROW)
        if not text:
            raise ValueError("the row's 'text' is empty; remove the row")
        return Document(text)
