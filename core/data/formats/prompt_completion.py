"""Format `prompt_completion`."""

from typing import Any, ClassVar

from core.data.examples import PromptCompletion


class PromptCompletionFormat:
    kind: ClassVar[str] = "prompt_completion"
    yields: ClassVar[type] = PromptCompletion

    @staticmethod
    def parse(record: dict[str, Any]) -> PromptCompletion:
        raise ValueError("this format is not written yet")
