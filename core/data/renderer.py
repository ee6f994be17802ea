"""`Renderer`: conversations through a chat template.

The built-in template is Python. Any other is code from a stranger: it runs in a child process with limits on memory,
processor time, wall time and output, which is fed over a pipe, serves thousands of conversations, and is replaced when
it had to be killed.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.chatml import CHATML, render_chatml
from core.data.examples import Turn
from core.errors import InvalidData

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
                return self._ask(line.encode() + b"\n", answers)
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
        self._child.send(line)
        text = self._child.reply()["text"]
        spans = {i: tuple(self._child.reply()["span"]) for i in answers}
        return Rendered(text, spans)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class _Child:
    """The process and its two pipes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONUTF8": "1"},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._rest = bytearray()
        self._read_line(SECONDS_TO_START)

    def send(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # the missing reply says it
            self._in.write(line)
            self._in.flush()

    def reply(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._read_line(SECONDS_A_RENDERING))
        if "error" in reply:
            raise InvalidData(
                reply["message"],
                code=reply["error"],
                hint=NOT_PREFIX_HINT if reply["error"] == NOT_PREFIX else TEMPLATE_HINT,
            )
        return reply

    def _read_line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while (end := self._rest.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise InvalidData(
                    f"the chat template took longer than {seconds:g} seconds for one conversation",
                    code="chat_template_too_slow",
                    hint="simplify chat_template.jinja",
                )
            chunk = os.read(self._out.fileno(), 1 << 20)
            if not chunk:
                raise InvalidData(
                    "the chat template was killed: it took too much time or memory",
                    code="chat_template_too_slow",
                    hint="simplify chat_template.jinja",
                )
            self._rest += chunk
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def close(self) -> None:
        self._selector.close()
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._in.close()
        self._out.close()


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
