"""Format `preference`: {"prompt": …, "chosen": …, "rejected": …}, all strings or all arrays of messages; or OpenAI's
{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}.

Where chosen and rejected are whole conversations, what they begin with in common is the prompt and "prompt" may be left
out. ShareGPT's turns do too: {"conversations": […], "chosen": {"from", "value"}, "rejected": {…}}.
"""

from typing import Any, ClassVar

from core.data.examples import Conversation, Preference, Turn
from core.data.formats.prompt_completion import completion_of
from core.data.formats.sharegpt import sharegpt_tools, sharegpt_turns
from core.data.messages import KEYS, answer_of, check_answer, tools_of, turns_of, unlearned
from core.data.records import ROW, check_keys, found, kind_of

OPENAI = ("input", "preferred_output", "non_preferred_output")
SHAREGPT = ("conversations", "chosen", "rejected")


class PreferenceFormat:
    kind: ClassVar[str] = "preference"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt", "chosen", "rejected"),
        OPENAI,
        ("chosen", "rejected"),
        SHAREGPT,
    )
    yields: ClassVar[type] = Preference

    @staticmethod
    def parse(record: dict[str, Any]) -> Preference:
        """Read two answers to one prompt; only the answers are learned."""
        if "preferred_output" in record or "non_preferred_output" in record:
            preference = _openai(record)
        elif "conversations" in record:
            preference = _sharegpt(record)
        else:
            preference = _pair(record)
        if preference.chosen == preference.rejected:
            raise ValueError("the chosen and the rejected answer are the same, so neither is better; remove the row")
        return preference


def _openai(record: dict[str, Any]) -> Preference:
    check_keys(record, known=OPENAI, where=ROW)
    asked = record.get("input")
    if not isinstance(asked, dict):
        raise ValueError(f"'input' is {found(asked)}; give an object with 'messages'")
    check_keys(asked, known=KEYS, where="'input'")
    prompt = turns_of(asked.get("messages"), "input.messages")
    chosen, rejected = (answer_of(record.get(key), key) for key in ("preferred_output", "non_preferred_output"))
    return _answers(prompt, chosen, rejected, tools_of(asked.get("tools")))


def _sharegpt(record: dict[str, Any]) -> Preference:
    check_keys(record, known=(*SHAREGPT, "tools"), where=ROW)
    prompt, chosen, rejected = (sharegpt_turns(record.get(key), key) for key in SHAREGPT)
    check_answer(chosen, "chosen")
    check_answer(rejected, "rejected")
    return _answers(prompt, chosen, rejected, sharegpt_tools(record))


def _pair(record: dict[str, Any]) -> Preference:
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        check_keys(record, known=("prompt", "chosen", "rejected"), where=ROW)
        if record.get("prompt") is None:
            raise ValueError("the row has no 'prompt'; cut what 'chosen' and 'rejected' begin with in common off there")
        return Preference(completion_of(record, "chosen"), completion_of(record, "rejected"))
    if not isinstance(chosen, list | dict) or not isinstance(rejected, list | dict):
        raise ValueError(
            f"'chosen' is {found(chosen)} and 'rejected' is {found(rejected)}; give a string in all of 'prompt', "
            "'chosen' and 'rejected', or an array of messages in all of them"
        )
    check_keys(record, known=("prompt", "chosen", "rejected", "tools", "parallel_tool_calls"), where=ROW)
    tools = tools_of(record.get("tools"))
    if isinstance(record.get("prompt"), list):
        prompt = turns_of(record["prompt"], "prompt")
        return _answers(prompt, answer_of(chosen, "chosen"), answer_of(rejected, "rejected"), tools)
    whole, other = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
    size = _in_common(whole, other)
    _check_prompt(record.get("prompt"), whole[:size])
    check_answer(whole[size:], "chosen", first=size)
    check_answer(other[size:], "rejected", first=size)
    return _answers(whole[:size], whole[size:], other[size:], tools)


def _in_common(whole: tuple[Turn, ...], other: tuple[Turn, ...]) -> int:
    """How many messages both begin with, up to the last one before the answers."""
    size = 0
    while size < min(len(whole), len(other)) - 1 and whole[size] == other[size]:
        size += 1
    while size and whole[size - 1].role in ("assistant", "tool"):
        size -= 1
    return size


def _check_prompt(prompt: object, turns: tuple[Turn, ...]) -> None:
    """A prompt in words beside whole conversations only repeats what they begin with."""
    if not turns:
        raise ValueError(
            "'chosen' and 'rejected' do not begin with the same message; give the messages before as 'prompt'"
        )
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"'prompt' is {kind_of(prompt)}; give an array of messages")
    if prompt and prompt not in [turn.content for turn in turns]:
        raise ValueError(
            "'prompt' is a string that 'chosen' does not begin with; give it as an array of messages, as 'chosen' is"
        )


def _answers(
    prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...], tools: tuple[dict[str, Any], ...]
) -> Preference:
    prompt = unlearned(prompt)
    return Preference(Conversation((*prompt, *chosen), tools), Conversation((*prompt, *rejected), tools))
