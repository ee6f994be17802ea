"""Format `text`."""

from typing import Any, ClassVar

from core.data.examples import Document


class Text:
    kind: ClassVar[str] = "text"
    yields: ClassVar[type] = Document

    @staticmethod
    def parse(record: dict[str, Any]) -> Document:
        raise ValueError("this format is not written yet")
