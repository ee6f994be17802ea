"""Write the parts of docs/ that the program itself knows: objectives, formats, presets, settings, the API.

    python -m scripts.pages        `make docs` does it; a test says when somebody has forgotten to

A page holds `<!-- generated: NAME -->` … `<!-- end -->`; what stands between is replaced. docs/api.md is one such part.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastapi.routing import iter_route_contexts
from prometheus_client.parser import text_string_to_metric_families

from api import example_specs
from api.app import create_app
from api.dependencies import Guard
from api.figures import Figures
from api.routes.catalog import catalog
from core.data.formats import FORMATS
from core.job_spec import TrainSpec
from core.jobs.database import Database, migrate
from core.objectives import OBJECTIVES
from core.settings import Settings, variable
from core.storage import Storage

DOCS = Path(__file__).resolve().parent.parent / "docs"
PART = re.compile(r"(<!-- generated: ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {
    "weightsmith_attempts": ("stage", "outcome"),
    "weightsmith_build_info": ("version",),
    "weightsmith_generator_answers": ("host",),
    "weightsmith_generator_slots_used": ("host",),
    "weightsmith_generator_tokens": ("host",),
    "weightsmith_generator_waiting": ("host",),
    "weightsmith_http_first_byte_seconds": ("route",),
    "weightsmith_http_request_seconds": ("method", "route"),
    "weightsmith_http_requests": ("method", "route", "status"),
    "weightsmith_jobs": ("state",),
    "weightsmith_jobs_failed": ("code",),
    "weightsmith_queue_age_seconds": ("queue",),
    "weightsmith_queue_depth": ("queue",),
    "weightsmith_slots": ("state",),
    "weightsmith_workers": ("kind",),
}
"""which an empty service does not show"""
ARXIV = re.compile(r"(?<!\[)arXiv:(\d{4}\.\d{5})")


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)


def pages() -> dict[Path, str]:
    """Every page as it should read."""
    return {path: filled(path.read_text()) for path in sorted(DOCS.rglob("*.md"))}


def filled(text: str) -> str:
    return PART.sub(lambda found: f"{found[1]}\n{part(found[2])}\n\n{found[3]}", text)


def part(name: str) -> str:
    word, _, argument = name.partition(" ")
    return PARTS[word](argument).strip()


def objective(kind: str) -> str:
    """What its file says, its settings, and what it takes and measures."""
    cls = OBJECTIVES[kind]
    known = next(one for one in catalog()["objectives"] if one["kind"] == kind)
    own = [row for name, row in fields(known["schema"]).items() if name != "kind"]
    facts = [
        f"**Learns from** {listed(f'[`{name}`](#data)' for name in known['formats'])} "
        f"with {listed(known['models'])} models. **Measures** {listed(f'`{name}`' for name in known['metrics'])}."
    ]
    settings = ["| setting | default | allowed | |", "|---|---|---|---|", *own] if own else []
    doc = sys.modules[cls.__module__].__doc__ or ""
    return "\n\n".join([prose(doc), "\n".join(facts), "\n".join(settings)])


def prose(docstring: str) -> str:
    """Paragraphs as they are, formulas as blocks, papers as links."""
    pieces = []
    for block in docstring.strip().split("\n\n"):
        if block.startswith("    "):
            lines = "\n".join(line.removeprefix("    ") for line in block.splitlines())
            pieces.append(f"```text\n{lines}\n```")
        else:
            quoted = re.split(r"(`[^`]*`)", block)
            text = "".join(one if one.startswith("`") else one.replace("<", "&lt;") for one in quoted)
            pieces.append(ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text))
    return "\n\n".join(pieces)


def fields(schema: dict[str, Any]) -> dict[str, str]:
    """A table row for each field."""
    required = schema.get("required", [])
    rows = {}
    for name, field in schema.get("properties", {}).items():
        default = "**needed**" if name in required else f"`{shown(field.get('default'))}`"
        rows[name] = f"| `{name}` | {default} | {allowed(field)} | {cell(field.get('description', ''))} |"
    return rows


def allowed(field: dict[str, Any]) -> str:
    if "enum" in field:
        return listed((f"`{value}`" for value in field["enum"]), last=" or ")
    if "anyOf" in field:
        return listed((allowed(one) for one in field["anyOf"] if one.get("type") != "null"), last=" or ")
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{word} {field[key]:g}" for key, word in limits.items() if key in field]
    kind = {"integer": "whole number", "number": "number", "boolean": "true or false", "array": "list"}
    return ", ".join([kind.get(field.get("type", ""), "text" if field.get("type") == "string" else "object"), *said])


def formats(_: str) -> str:
    rows = ["| format | keys | what a row is | for objectives |", "|---|---|---|---|"]
    for one in catalog()["formats"]:
        description = one["description"].partition(": ")[2]
        keys = " or ".join(", ".join(f"`{key}`" for key in keys) for keys in one["keys"])
        takers = listed(
            f"[`{kind}`](#{kind})" for kind, cls in OBJECTIVES.items() if FORMATS[one["kind"]].yields in cls.consumes
        )
        rows.append(f"| `{one['kind']}` | {keys} | {cell(description)} | {takers} |")
    return "\n".join(rows)


def presets(_: str) -> str:
    families = catalog()["families"]
    names = list(dict.fromkeys(preset["name"] for family in families for preset in family["presets"]))
    rows = [f"| family | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for family in families:
        sizes = {preset["name"]: f"{preset['parameters'] / 1e6:.0f} M" for preset in family["presets"]}
        rows.append(f"| `{family['kind']}` | {' | '.join(sizes.get(name, '') for name in names)} |")
    return "\n".join([*rows, "", "Parameters with a vocabulary of 8,192 tokens."])


def spec(_: str) -> str:
    """A job that says little, with everything that it did not say."""
    said = TrainSpec.model_validate(example_specs.TRAIN)
    lines = [
        f' "{name}": {json.dumps(value, ensure_ascii=False)}'
        for name, value in said.model_dump(mode="json", by_alias=True).items()
    ]
    return "```json\n{\n" + ",\n".join(lines) + "\n}\n```"


def figures(_: str) -> str:
    """The metrics of Prometheus as a service with a job of each kind would show them."""
    with tempfile.TemporaryDirectory() as home:
        url = f"sqlite:///{home}/weightsmith.db"
        migrate(url)
        database = Database(url)
        known = Figures(database, Storage(Path(home)))
        found = list(text_string_to_metric_families(known.text().decode()))
        database.close()
    rows = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for family in found:
        if family.name.startswith("weightsmith"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = listed(f"`{label}`" for label in LABELS.get(family.name, ()))
            rows.append(f"| `{name}` | {family.type} | {labels} | {cell(family.documentation)} |")
    return "\n".join(rows)


def settings(_: str) -> str:
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        text = ":".join(map(str, default)) if isinstance(default, list) else default
        rows.append(f"| `{variable(name)}` | `{shown(text)}` | {cell(field.description or '')} |")
    return "\n".join(rows)


def api(_: str) -> str:
    """Every operation by subject, with the scope that a key needs."""
    with tempfile.TemporaryDirectory() as home:
        app = create_app(Settings(home=Path(home), log_level="error"))
    scopes = {
        f"{method} {route.path}": scopes_of(route.dependant)
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
    }
    by_tag: dict[str, list[str]] = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            asked = [f"`{p['name']}`" for p in operation.get("parameters", []) if p["in"] == "query"]
            more = f" Query: {', '.join(asked)}." if asked else ""
            scope = listed((f"`{one}`" for one in scopes.get(name, ())), last=" or ") or "none"
            row = f"| `{name}` | {cell(operation['summary'])}.{more} | {scope} |"
            by_tag.setdefault(operation["tags"][0], []).append(row.replace("?.", "?"))
    lines: list[str] = []
    for tag, rows in by_tag.items():
        lines += [f"## {tag[:1].upper()}{tag[1:]}", "", "| operation | | key's scope |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def scopes_of(dependant: Any) -> Sequence[str]:
    own = dependant.call.scopes if isinstance(dependant.call, Guard) else ()
    return next((found for inner in dependant.dependencies if (found := scopes_of(inner))), tuple(own))


def listed(words: Iterable[str], last: str = " and ") -> str:
    *before, end = list(words) or [""]
    return f"{', '.join(before)}{last}{end}" if before else end


def shown(value: object) -> str:
    words: dict[object, str] = {None: "none", True: "true", False: "false", "": "(empty)"}
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return f"{value:g}" if isinstance(value, float) else f"{value}"
    return words.get(value, str(value))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


PARTS: dict[str, Callable[[str], str]] = {
    "api": api,
    "figures": figures,
    "formats": formats,
    "objective": objective,
    "presets": presets,
    "settings": settings,
    "spec": spec,
}

if __name__ == "__main__":
    main()
