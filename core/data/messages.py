"""Messages as OpenAI writes them, {"role", "content", …}, as turns of a conversation, and tools. Several formats hold
them, and so do requests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from core.data.examples import Conversation, Role, Turn
from core.data.records import (
    MAX_NAME_CHARACTERS,
    MAX_TURNS,
    check_depth,
    check_keys,
    checked_text,
    found,
    kind_of,
    parse_json,
    shown,
    text_of,
)

ROLES: tuple[Role, ...] = get_args(Role)
NOTHING: frozenset[str] = frozenset()
KEYS = ("messages", "tools", "parallel_tool_calls")


def conversation_of(record: dict[str, Any]) -> Conversation:
    """Read a conversation that need not teach: a prompt that is to be answered."""
    check_keys(record, known=KEYS, where="the row")
    return Conversation(turns_of(record.get("messages"), "messages"), tools_of(record.get("tools")))


def turns_of(messages: object, key: str) -> tuple[Turn, ...]:
    """Read an array of messages that stands at `key`.

    Raises:
        ValueError: what is wrong, what is allowed and what to do.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{key!r} is {found(messages)}; give an array of at least one message")
    if len(messages) > MAX_TURNS:
        raise ValueError(f"{key!r} has {len(messages)} messages; at most {MAX_TURNS} are allowed: split the row")
    return tuple(_turn(message, f"{key}[{i}]") for i, message in enumerate(messages))


def check_teaches(turns: Sequence[Turn]) -> None:
    """Refuse turns of which none is learned."""
    if not any(turn.weight for turn in turns):
        answers = any(turn.role == "assistant" for turn in turns)
        raise ValueError(
            "every assistant message has weight 0, so the row teaches nothing; give one weight 1 or remove the row"
            if answers
            else "there is no assistant message, so the row teaches nothing; add the answer or remove the row"
        )


def unlearned(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns as a prompt."""
    return tuple(replace(turn, weight=0.0) for turn in turns)


def answer_of(messages: object, key: str) -> tuple[Turn, ...]:
    """Read messages that answer a prompt: from the assistant, with the tools' results between them."""
    turns = turns_of([messages] if isinstance(messages, dict) else messages, key)
    check_answer(turns, key)
    return turns


def check_answer(turns: Sequence[Turn], key: str, *, first: int = 0) -> None:
    """Refuse turns that stand at `key` from number `first` on, unless they answer and teach."""
    for i, turn in enumerate(turns, first):
        if turn.role not in ("assistant", "tool"):
            raise ValueError(
                f"{key}[{i}] is from the {turn.role}; an answer has messages of the assistant and of tools only: "
                "move the others into the prompt"
            )
    check_teaches(turns)


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {kind_of(message)}; give an object with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{where}: 'role' is {shown(role)}; allowed are {', '.join(ROLES)}")
    known = {"assistant": ("weight", "tool_calls"), "tool": ("tool_call_id",)}.get(role, ())
    if "weight" in message and role != "assistant":
        raise ValueError(
            f"{where}: 'weight' stands on a {role} message; only assistant messages are learned: remove it"
        )
    check_keys(message, known=("role", "content", "name", *known), where=where, harmless=NOTHING)
    calls = _tool_calls(message.get("tool_calls"), where)
    return Turn(
        role=role,
        content=_content(message.get("content"), where, may_be_missing=bool(calls)),
        weight=weight_of(message, where) if role == "assistant" else 0.0,
        tool_calls=calls,
        tool_call_id=_name(message.get("tool_call_id"), f"{where}: 'tool_call_id'"),
        name=_name(message.get("name"), f"{where}: 'name'"),
    )


def _content(content: object, where: str, *, may_be_missing: bool) -> str:
    """A string, or OpenAI's array of text parts."""
    if isinstance(content, str):
        return checked_text(content, where=f"{where}: 'content'")
    if content is None and may_be_missing:
        return ""
    if not isinstance(content, list):
        raise ValueError(f"{where}: 'content' is {found(content)}; give a string")
    parts = []
    for i, part in enumerate(content):
        at = f"{where}: content[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text":
            raise ValueError(
                f"{at} is of type {shown(kind)}; only text parts can be learned: {{'type': 'text', 'text': …}}"
            )
        check_keys(part, known=("type", "text"), where=at, harmless=NOTHING)
        parts.append(text_of(part, "text", where=at))
    return "".join(parts)


def weight_of(message: dict[str, Any], where: str) -> float:
    weight = message.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(f"{where}: 'weight' is {shown(weight)}; allowed are 0 (do not learn it) and 1 (learn it)")
    return float(weight)


def _tool_calls(calls: object, where: str) -> tuple[dict[str, Any], ...]:
    """Calls with their arguments as an object, whether they were given as one or as JSON text."""
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise ValueError(f"{where}: 'tool_calls' is {kind_of(calls)}; give an array of calls")
    return tuple(call_of(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))


def call_of(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise ValueError(f"{where} has no 'function' object; give {{'type': 'function', 'function': {{…}}}}")
    check_keys(call, known=("id", "type", "function", "index"), where=where, harmless=NOTHING)
    function = call["function"]
    check_keys(function, known=("name", "arguments"), where=f"{where}.function", harmless=NOTHING)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"{where}: 'arguments' is not JSON ({error}); give a JSON object") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: 'arguments' is {kind_of(arguments)}; give a JSON object")
    check_depth(arguments, where=f"{where}: 'arguments'")
    kept = {"type": "function", "function": {"name": _function_name(function, where), "arguments": arguments}}
    name = _name(call.get("id"), f"{where}: 'id'")
    return kept if name is None else {"id": name, **kept}


def tools_of(tools: object) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise ValueError(f"'tools' is {kind_of(tools)}; give an array of tools")
    check_depth(tools, where="'tools'")
    for i, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
            raise ValueError(f"tools[{i}] has no 'function' object; give {{'type': 'function', 'function': {{…}}}}")
        _function_name(tool["function"], f"tools[{i}]")
    return tuple(tools)


def _function_name(function: dict[str, Any], where: str) -> str:
    name = _name(function.get("name"), f"{where}: the function's 'name'")
    if not name:
        raise ValueError(f"{where}: the function has no 'name'; give one")
    return name


def _name(value: object, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{what} is {shown(value)}; give a string of at most {MAX_NAME_CHARACTERS} characters")
    return checked_text(value, where=what)
