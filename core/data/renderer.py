"""`Renderer`: conversations through a chat template.

The built-in template is Python. Any other is code from a stranger: it runs in a child process with limits on memory,
processor time, wall time and output, which is fed over a pipe, serves thousands of conversations, and is replaced when
it had to be killed.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.chatml import CHATML, render_chatml
from core.data.examples import Turn
from core.errors import InvalidData
from core.line_process import Ended, LineProcess, TooSlow

CHILD = Path(__file__).with_name("template_child.py")
SECONDS_A_RENDERING = 2.0
SECONDS_TO_START = 60.0
FREE_CHARACTERS = 1 << 20
NOT_PREFIX = "chat_template_not_prefix"
NOT_PREFIX_HINT = "let only the last answer be learned (weight 0 on the others), or correct chat_template.jinja"
TEMPLATE_HINT = "correct chat_template.jinja, or the conversation"


@dataclass(frozen=True)
class Rendered:
    text: str
    spans: dict[int, tuple[int, int]]
    """where in the text an assistant message's answer starts and ends, by the message's index"""


class Renderer:
    """A context manager; safe to share between threads. The child starts when the first foreign template comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._kill()

    def render(
        self,
        template: str,
        turns: Sequence[Turn],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        specials: Mapping[str, str] | None = None,
    ) -> str:
        """The whole text. `specials`: `bos_token` and the like, as the template sees them.

        Raises:
            InvalidData: the template is wrong, refuses the conversation, or takes too long or too much.
        """
        return self.render_messages(
            template,
            messages_of(template, turns),
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            specials=specials or {},
        ).text

    def render_messages(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[object],
        add_generation_prompt: bool,
        specials: Mapping[str, str],
        answers: Sequence[int] = (),
    ) -> Rendered:
        """The text and the spans of the assistant messages in `answers` (the built-in template gives all).

        Raises:
            InvalidData: as `render`; also `chat_template_not_prefix` where a span cannot be told.
        """
        if template == CHATML:
            return Rendered(*render_chatml(messages, tools, add_generation_prompt=add_generation_prompt))
        request = {
            "template": template,
            "messages": messages,
            "tools": tools,
            "specials": specials,
            "add_generation_prompt": add_generation_prompt,
            "answers": answers,
        }
        characters = len(json.dumps(request, ensure_ascii=False))
        line = json.dumps(request | {"max_characters": 4 * characters + FREE_CHARACTERS})
        with self._lock:
            try:
                return self._ask(line.encode(), answers)
            except InvalidData as error:
                if error.code != NOT_PREFIX:
                    self._kill()
                raise
            except BaseException:
                self._kill()
                raise

    def _ask(self, line: bytes, answers: Sequence[int]) -> Rendered:
        if self._child is None:
            self._child = _Child()
        text = self._child.ask(line)["text"]
        spans = {i: tuple(self._child.reply()["span"]) for i in answers}
        return Rendered(text, spans)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class _Child:
    """The program, and what its silence means."""

    def __init__(self) -> None:
        self._process = LineProcess(["-I", str(CHILD)])
        try:
            self._process.read_line(SECONDS_TO_START)
        except (TooSlow, Ended) as failure:
            self._process.close()
            raise _gone() from failure

    def ask(self, line: bytes) -> dict[str, Any]:
        """Send a request; returns its first reply.

        Raises:
            InvalidData: the template is wrong, or takes too long or too much.
        """
        return self._reply(lambda: self._process.ask(line, SECONDS_A_RENDERING))

    def reply(self) -> dict[str, Any]:
        """The next reply; raises as `ask`."""
        return self._reply(lambda: self._process.read_line(SECONDS_A_RENDERING))

    def _reply(self, read: Callable[[], bytes]) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = json.loads(read())
        except TooSlow:
            raise InvalidData(
                f"the chat template took longer than {SECONDS_A_RENDERING:g} seconds for one conversation",
                code="chat_template_too_slow",
                hint="simplify chat_template.jinja",
            ) from None
        except Ended as failure:
            raise _gone() from failure
        if "error" in reply:
            raise InvalidData(
                reply["message"],
                code=reply["error"],
                hint=NOT_PREFIX_HINT if reply["error"] == NOT_PREFIX else TEMPLATE_HINT,
            )
        return reply

    def close(self) -> None:
        self._process.close()


def _gone() -> InvalidData:
    return InvalidData(
        "the chat template was killed: it took too much time or memory",
        code="chat_template_too_slow",
        hint="simplify chat_template.jinja",
    )


def messages_of(template: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as templates expect them. `developer` is `system` for a template that does not know it."""
    knows_developer = "developer" in template
    messages = []
    for turn in turns:
        role = "system" if turn.role == "developer" and not knows_developer else turn.role
        message: dict[str, Any] = {"role": role, "content": turn.content}
        if turn.tool_calls:
            message["tool_calls"] = list(turn.tool_calls)
        if turn.tool_call_id is not None:
            message["tool_call_id"] = turn.tool_call_id
        if turn.name is not None:
            message["name"] = turn.name
        messages.append(message)
    return messages
