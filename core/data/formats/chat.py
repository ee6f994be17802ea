"""Format `chat`: {"messages": [{"role", "content", …}, …], "tools": […]}, as OpenAI's fine-tuning takes it."""

from typing import Any, ClassVar, get_args

from core.data.examples import Conversation, Role, Turn
from core.data.records import (
    MAX_NAME_CHARACTERS,
    MAX_TURNS,
    check_depth,
    check_keys,
    checked_text,
    kind_of,
    parse_json,
    text_of,
)

ROLES: tuple[Role, ...] = get_args(Role)
NOTHING: frozenset[str] = frozenset()


class Chat:
    kind: ClassVar[str] = "chat"
    keys: ClassVar[tuple[str, ...]] = ("messages",)
    yields: ClassVar[type] = Conversation

    @staticmethod
    def parse(record: dict[str, Any]) -> Conversation:
        """Read a conversation of which at least one assistant turn is learned."""
        conversation = parse_conversation(record)
        if not any(turn.weight for turn in conversation.turns):
            answers = any(turn.role == "assistant" for turn in conversation.turns)
            raise ValueError(
                "every assistant message has weight 0, so the row teaches nothing; give one weight 1 or remove the row"
                if answers
                else "there is no assistant message, so the row teaches nothing; add the answer or remove the row"
            )
        return conversation


def parse_conversation(record: dict[str, Any]) -> Conversation:
    """Read a conversation that need not teach: a prompt that is to be answered."""
    check_keys(record, known=("messages", "tools", "parallel_tool_calls"), where="the row")
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"'messages' is {_found(messages)}; give an array of at least one message")
    if len(messages) > MAX_TURNS:
        raise ValueError(f"'messages' has {len(messages)} messages; at most {MAX_TURNS} are allowed: split the row")
    turns = tuple(_turn(message, f"messages[{i}]") for i, message in enumerate(messages))
    return Conversation(turns, _tools(record.get("tools")))


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {kind_of(message)}; give an object with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{where}: 'role' is {_shown(role)}; allowed are {', '.join(ROLES)}")
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
        weight=_weight(message, where) if role == "assistant" else 0.0,
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
        raise ValueError(f"{where}: 'content' is {_found(content)}; give a string")
    parts = []
    for i, part in enumerate(content):
        at = f"{where}: content[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text":
            raise ValueError(
                f"{at} is of type {_shown(kind)}; only text parts can be learned: {{'type': 'text', 'text': …}}"
            )
        check_keys(part, known=("type", "text"), where=at, harmless=NOTHING)
        parts.append(text_of(part, "text", where=at))
    return "".join(parts)


def _weight(message: dict[str, Any], where: str) -> float:
    weight = message.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(f"{where}: 'weight' is {_shown(weight)}; allowed are 0 (do not learn it) and 1 (learn it)")
    return float(weight)


def _tool_calls(calls: object, where: str) -> tuple[dict[str, Any], ...]:
    """Calls with their arguments as an object, whether they were given as one or as JSON text."""
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise ValueError(f"{where}: 'tool_calls' is {kind_of(calls)}; give an array of calls")
    return tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls))


def _tool_call(call: object, where: str) -> dict[str, Any]:
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


def _tools(tools: object) -> tuple[dict[str, Any], ...]:
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
        raise ValueError(f"{what} is {_shown(value)}; give a string of at most {MAX_NAME_CHARACTERS} characters")
    return checked_text(value, where=what)


def _found(value: object) -> str:
    if value is None:
        return "missing"
    return f"an empty {kind_of(value).split()[-1]}" if value in ([], "", {}) else kind_of(value)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]
