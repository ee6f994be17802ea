"""Format `prompt_completion`: {"prompt": "…", "completion": "…"}."""

from typing import Any, ClassVar

from core.data.examples import PromptCompletion
from core.data.records import check_keys, text_of


class PromptCompletionFormat:
    kind: ClassVar[str] = "prompt_completion"
    keys: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    yields: ClassVar[type] = PromptCompletion

    @staticmethod
    def parse(record: dict[str, Any]) -> PromptCompletion:
        prompt = text_of(record, "prompt", where="the row")
        completion = text_of(record, "completion", where="the row")
        check_keys(record, known=PromptCompletionFormat.keys, where="the row")
        if not completion:
            raise ValueError("the row's 'completion' is empty, so it teaches nothing; fill it in or remove the row")
        return PromptCompletion(prompt, completion)
