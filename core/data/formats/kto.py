"""Format `kto`: {"prompt": …, "completion": …, "label": true or false}, both strings or both arrays of messages; or
{"messages": […], "label": …}, of which the last message is judged."""

from typing import Any, ClassVar

from core.data.examples import Conversation, Judged, PromptCompletion
from core.data.formats.prompt_completion import completion_of
from core.data.messages import answer_of, check_answer, tools_of, turns_of, unlearned
from core.data.records import ROW, check_keys, truth_of


class KTO:
    kind: ClassVar[str] = "kto"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion", "label"), ("messages", "label"))
    yields: ClassVar[type] = Judged

    @staticmethod
    def parse(record: dict[str, Any]) -> Judged:
        """Read an answer that was found good (true) or bad (false)."""
        is_good = truth_of(record, "label")
        if "messages" in record:
            return Judged(_last_answer(record), is_good)
        return Judged(_completion(record), is_good)


def _completion(record: dict[str, Any]) -> PromptCompletion | Conversation:
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, str) or isinstance(completion, str):
        check_keys(record, known=("prompt", "completion", "label"), where=ROW)
        return completion_of(record, "completion")
    check_keys(record, known=("prompt", "completion", "label", "tools", "parallel_tool_calls"), where=ROW)
    asked, answer = turns_of(prompt, "prompt"), answer_of(completion, "completion")
    return Conversation((*unlearned(asked), *answer), tools_of(record.get("tools")))


def _last_answer(record: dict[str, Any]) -> Conversation:
    check_keys(record, known=("messages", "label", "tools", "parallel_tool_calls"), where=ROW)
    turns = turns_of(record["messages"], "messages")
    answer = turns[-1:]
    check_answer(answer, "messages", first=len(turns) - 1)
    if len(turns) == 1:
        raise ValueError("'messages' has only the answer; put the prompt before it")
    return Conversation((*unlearned(turns[:-1]), *answer), tools_of(record.get("tools")))
