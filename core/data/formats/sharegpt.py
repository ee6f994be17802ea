"""Format `sharegpt`: {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}, …]}, also with "system"
and "tools", as chat.

A turn from `function_call` holds JSON, {"name", "arguments"} or an array of such; the one from `observation` that
follows holds the result. "tools" is an array of functions, or the JSON text of one.
"""

from typing import Any, ClassVar

from core.data.examples import Conversation, Role, Turn
from core.data.messages import call_of, check_teaches, tools_of, weight_of
from core.data.records import MAX_TURNS, ROW, check_keys, found, kind_of, optional_text_of, parse_json, shown, text_of

ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip


class ShareGPT:
    kind: ClassVar[str] = "sharegpt"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (("conversations",),)
    yields: ClassVar[type] = Conversation

    @staticmethod
    def parse(record: dict[str, Any]) -> Conversation:
        check_keys(record, known=("conversations", "system", "tools"), where=ROW)
        system = optional_text_of(record, "system")
        turns = sharegpt_turns(record.get("conversations"), "conversations")
        if system and turns[0].role == "system":
            raise ValueError("the row has a 'system' and a system turn in 'conversations'; keep one of them")
        check_teaches(turns)
        return Conversation((*([Turn("system", system)] if system else []), *turns), sharegpt_tools(record))


def sharegpt_turns(turns: object, key: str) -> tuple[Turn, ...]:
    """Read an array of turns that stands at `key`; a lone turn counts as one of length 1."""
    turns = [turns] if isinstance(turns, dict) else turns
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{key!r} is {found(turns)}; give an array of at least one turn")
    if len(turns) > MAX_TURNS:
        raise ValueError(f"{key!r} has {len(turns)} turns; at most {MAX_TURNS} are allowed: split the row")
    return tuple(_turn(turn, f"{key}[{i}]") for i, turn in enumerate(turns))


def _turn(turn: object, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"{where} is {kind_of(turn)}; give an object with 'from' and 'value'")
    sender = turn.get("from")
    role = ROLES.get(sender) if isinstance(sender, str) else None
    if role is None:
        raise ValueError(f"{where}: 'from' is {shown(sender)}; allowed are {', '.join(ROLES)}")
    learned = ("weight",) if role == "assistant" else ()
    check_keys(turn, known=("from", "value", *learned), where=where)
    value = text_of(turn, "value", where=where)
    weight = weight_of(turn, where) if role == "assistant" else 0.0
    if sender == "function_call":
        return Turn(role, "", weight, tool_calls=_calls(value, where))
    return Turn(role, value, weight)


def _calls(value: str, where: str) -> tuple[dict[str, Any], ...]:
    try:
        calls = parse_json(value)
    except ValueError as error:
        raise ValueError(f"{where}: a function_call's 'value' is not JSON ({error}); give {CALL}") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{where}: a function_call's 'value' is {shown(value)}; give {CALL}")
    return tuple(call_of({"function": call}, f"{where}: call {i + 1}") for i, call in enumerate(calls))


CALL = """'{"name": "…", "arguments": {…}}' or an array of such"""


def sharegpt_tools(record: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The tools, each in OpenAI's wrapping."""
    tools = record.get("tools")
    if isinstance(tools, str):
        if not tools.strip():
            return ()
        try:
            tools = parse_json(tools)
        except ValueError as error:
            raise ValueError(f"'tools' is not JSON ({error}); give an array of functions") from None
    if isinstance(tools, list):
        tools = [
            {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
            for tool in tools
        ]
    return tools_of(tools)
