"""Format `text_pair`: {"source": "…", "target": "…"}, {"document": "…", "summary": "…"} or
{"translation": {"en": "…", "de": "…"}}, of which the first language is the source."""

from typing import Any, ClassVar

from core.data.examples import TextPair
from core.data.records import ROW, check_keys, filled_text_of, found


class TextPairFormat:
    kind: ClassVar[str] = "text_pair"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("source", "target"), ("document", "summary"), ("translation",))
    yields: ClassVar[type] = TextPair

    @staticmethod
    def parse(record: dict[str, Any]) -> TextPair:
        if record.get("translation") is not None:
            check_keys(record, known=("translation",), where=ROW)
            return _translation(record["translation"])
        source, target = ("document", "summary") if record.get("document") is not None else ("source", "target")
        check_keys(record, known=(source, target), where=ROW)
        return TextPair(filled_text_of(record, source), filled_text_of(record, target))


def _translation(languages: object) -> TextPair:
    if not isinstance(languages, dict) or len(languages) != 2:
        names = (
            ", ".join(repr(key[:64]) for key in [*languages][:5]) if isinstance(languages, dict) else found(languages)
        )
        raise ValueError(f"'translation' has {names}; give an object with two languages, the source first")
    source, target = languages
    where = "'translation'"
    return TextPair(filled_text_of(languages, source, where=where), filled_text_of(languages, target, where=where))
