"""The program that renders chat templates, code from strangers. `core.data.renderer` starts it; nothing imports it.

It reads one request a line from standard input and answers with lines on standard output:

    {"template", "messages", "tools", "specials", "add_generation_prompt", "answers", "max_characters"}
    {"text": the rendering of all messages}, then for each index in "answers" {"span": [start, end]},
    or {"error": code, "message"} in the place of any of them, which ends the request

The span of message i is what stands between the rendering of the messages before it with the generation prompt and
the rendering up to and with it. Both must be prefixes of the whole.
"""

import json
import math
import resource
import sys
from datetime import date
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 3
FILTERS = (
    "abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "first", "float", "format", "groupby",
    "indent", "int", "items", "join", "last", "length", "list", "lower", "lstrip", "map", "max", "min", "reject",
    "rejectattr", "replace", "reverse", "round", "rstrip", "safe", "select", "selectattr", "slice", "sort", "string",
    "sum", "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
GLOBALS = ("range", "dict", "namespace")
TODAY = date(2024, 7, 26)
"""for every template that asks, for ever: Llama 3.1's own default"""


class Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for other trainers; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def compiled(template: str) -> jinja2.Template:
    """As transformers compiles it, but for the clock: a rendering must not depend on the day."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters = {name: environment.filters[name] for name in FILTERS if name in environment.filters}
    environment.filters["tojson"] = to_json
    environment.globals = {name: environment.globals[name] for name in GLOBALS}
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(template)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(f"{message}")


def rendered(request: dict[str, Any], messages: list[Any], *, add_generation_prompt: bool) -> str:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    stream = compiled(request["template"]).generate(
        messages=messages,
        tools=request["tools"] or None,
        add_generation_prompt=add_generation_prompt,
        **request["specials"],
    )
    parts, size = [], 0
    for part in stream:
        size += len(part)
        if size > request["max_characters"]:
            raise Refused(
                "chat_template_too_large", f"the chat template wrote more than {request['max_characters']} characters"
            )
        parts.append(part)
    return "".join(parts)


def span(request: dict[str, Any], whole: str, i: int) -> list[int]:
    """Where message i's answer starts and ends in the whole."""
    messages = request["messages"]
    before = rendered(request, messages[:i], add_generation_prompt=True)
    through = rendered(request, messages[: i + 1], add_generation_prompt=False)
    if not whole.startswith(through):
        at = next((k for k, (a, b) in enumerate(zip(through, whole, strict=False)) if a != b), len(whole))
        raise Refused(
            "chat_template_not_prefix",
            f"the chat template renders messages[{i}] differently once others follow it: {through[at : at + 40]!r} "
            f"becomes {whole[at : at + 40]!r}",
        )
    if not through.startswith(before):
        raise Refused(
            "chat_template_not_prefix",
            f"the chat template's generation prompt, {before[-40:]!r}, is not how messages[{i}] begins",
        )
    return [len(before), len(through)]


def answer(request: dict[str, Any]) -> None:
    try:
        whole = rendered(request, request["messages"], add_generation_prompt=request["add_generation_prompt"])
        say({"text": whole})
        for i in request["answers"]:
            say({"span": span(request, whole, i)})
    except Refused as refusal:
        say({"error": refusal.code, "message": str(refusal)})
    except MemoryError:
        say({"error": "chat_template_too_large", "message": "the chat template took too much memory"})
    except jinja2.TemplateSyntaxError as error:
        say(
            {
                "error": "chat_template_error",
                "message": f"the chat template is wrong in line {error.lineno}: {error.message}"[:500],
            }
        )
    except Exception as error:  # the template is foreign code: it can raise anything
        say(
            {
                "error": "chat_template_error",
                "message": f"the chat template failed: {type(error).__name__}: {error}"[:500],
            }
        )


def say(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def main() -> None:
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(limit, (value, value))
    say({"ready": True})
    for line in sys.stdin:
        answer(json.loads(line))


if __name__ == "__main__":
    main()
