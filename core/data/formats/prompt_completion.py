"""Format `prompt_completion`: {"prompt": "…", "completion": "…"}."""

from typing import Any, ClassVar

from core.data.examples import PromptCompletion
from core.data.records import ROW, check_keys, text_of


class PromptCompletionFormat:
    kind: ClassVar[str] = "prompt_completion"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion"),)
    yields: ClassVar[type] = PromptCompletion

    @staticmethod
    def parse(record: dict[str, Any]) -> PromptCompletion:
        if isinstance(record.get("prompt"), list) or isinstance(record.get("completion"), list):
            raise ValueError(
                "the row's 'prompt' and 'completion' are arrays, not strings; for a chat write all of their messages, "
                "in order, as 'messages'"
            )
        check_keys(record, known=("prompt", "completion"), where=ROW)
        return completion_of(record, "completion")


def completion_of(record: dict[str, Any], key: str) -> PromptCompletion:
    """The prompt, and the completion that stands at `key`."""
    prompt, completion = text_of(record, "prompt", where=ROW), text_of(record, key, where=ROW)
    if not completion:
        raise ValueError(f"the row's {key!r} is empty, so it teaches nothing; fill it in or remove the row")
    return PromptCompletion(prompt, completion)
