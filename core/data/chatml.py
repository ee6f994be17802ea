"""The chat template of tokenizers that are made here: ChatML, with tools.

The same text is written twice, as Jinja for every program that reads `chat_template.jinja`, and as Python, which is
fast and needs no sandbox. A test proves them equal.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

CHATML = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0].role == 'system' %}
{{- messages[0].content + '\\n\\n' }}
{%- endif %}
{{- 'You may call these functions:\\n<tools>\\n' }}
{%- for tool in tools %}
{{- (tool | tojson) + '\\n' }}
{%- endfor %}
{{- '</tools>\\n\\nTo call one, write its name and its arguments as JSON:\\n' }}
{{- '<tool_call>\\n{"name": "…", "arguments": {…}}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content or not loop.first else '' }}
{{- '<tool_call>\\n{"name": ' + (call.function.name | tojson) }}
{{- ', "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_TOOLS_END = (
    "</tools>\n\nTo call one, write its name and its arguments as JSON:\n"
    '<tool_call>\n{"name": "…", "arguments": {…}}\n</tool_call><|im_end|>\n'
)


def render_chatml(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[object], *, add_generation_prompt: bool
) -> tuple[str, dict[int, tuple[int, int]]]:
    """What `CHATML` gives, and where in it each assistant message's answer starts and its turn ends, by index."""
    parts: list[str] = []
    spans: dict[int, tuple[int, int]] = {}
    size = 0

    def write(text: str) -> None:
        nonlocal size
        parts.append(text)
        size += len(text)

    first_is_system = bool(messages) and messages[0]["role"] == "system"
    if tools:
        system = messages[0]["content"] + "\n\n" if first_is_system else ""
        write(f"<|im_start|>system\n{system}You may call these functions:\n<tools>\n")
        write("".join(_json(tool) + "\n" for tool in tools) + _TOOLS_END)
    for i, message in enumerate(messages):
        if tools and i == 0 and first_is_system:
            continue
        write(f"<|im_start|>{message['role']}\n")
        start = size
        write(message["content"])
        for nth, call in enumerate(message.get("tool_calls") or ()):
            function = call["function"]
            write("\n" if message["content"] or nth else "")
            write(f'<tool_call>\n{{"name": {_json(function["name"])}, "arguments": {_json(function["arguments"])}}}')
            write("\n</tool_call>")
        write("<|im_end|>\n")
        if message["role"] == "assistant":
            spans[i] = (start, size)
    if add_generation_prompt:
        write("<|im_start|>assistant\n")
    return "".join(parts), spans


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
