"""Format `tagged`: {"tokens": ["…", …], "tags": ["…", …]}, a word and its tag at the same place."""

from typing import Any, ClassVar

from core.data.examples import Tagged
from core.data.records import MAX_WORDS, ROW, array_of, check_keys, checked_text, name_of, shown


class TaggedFormat:
    kind: ClassVar[str] = "tagged"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("tokens", "tags"),)
    yields: ClassVar[type] = Tagged

    @staticmethod
    def parse(record: dict[str, Any]) -> Tagged:
        check_keys(record, known=("tokens", "tags"), where=ROW)
        words, tags = (array_of(record, key, max_items=MAX_WORDS) for key in ("tokens", "tags"))
        if len(words) != len(tags):
            raise ValueError(f"the row has {len(words)} tokens and {len(tags)} tags; give each token one tag")
        if not words:
            raise ValueError("the row's 'tokens' is an empty array; remove the row")
        return Tagged(
            tuple(_word(word, f"tokens[{i}]") for i, word in enumerate(words)),
            tuple(name_of(tag, f"tags[{i}]") for i, tag in enumerate(tags)),
        )


def _word(word: object, where: str) -> str:
    if not isinstance(word, str) or not word.strip():
        raise ValueError(f"{where} is {shown(word)}; give a word")
    return checked_text(word, where=where)
