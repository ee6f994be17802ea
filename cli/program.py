"""A `weightsmith train` line as a shell script or a Python program."""

import json
import shlex
from pathlib import Path

from cli.recipe import Recipe


def curl(recipe: Recipe) -> str:
    """A POSIX shell script that needs curl and jq."""
    lines = [
        "#!/bin/sh",
        "# Needs curl and jq. Address and key: .weightsmith/credentials.json has both.",
        "set -e",
        ': "${BASE_URL:=http://127.0.0.1:8000/v1}" "${API_KEY:?}"',
        'ask() { curl -sS --fail-with-body -H "Authorization: Bearer $API_KEY" "$@"; }',
        "",
    ]
    variables = []
    for number, place in enumerate(recipe.data):
        variable = f"FILE{number or ''}"
        variables.append(f"${variable}")
        if Path(place).is_file():
            form = f"-F purpose=fine-tune -F file=@{shlex.quote(place)}"
            lines.append(f'{variable}=$(ask "$BASE_URL/files" {form} | jq -r .id)')
        else:
            lines.append(f"{variable}={shlex.quote(place)}")
    tokenizer = recipe.tokenizer
    if recipe.needs_tokenizer:
        tokenizer = "$TOKENIZER"
        lines += [
            f'TOKENIZER_JOB=$(ask "$BASE_URL/jobs" --json {_quoted(recipe.tokenizer_spec(variables))} | jq -r .id)',
            'until [ "$(ask "$BASE_URL/jobs/$TOKENIZER_JOB" | jq -r .state)" = succeeded ]; do sleep 1; done',
            'TOKENIZER=$(ask "$BASE_URL/jobs/$TOKENIZER_JOB" | jq -r .result.tokenizer)',
        ]
    spec = recipe.spec(variables, tokenizer, _format(recipe))
    lines += [f'ask "$BASE_URL/jobs" --json {_quoted(spec)}']
    return "\n".join(lines)


def _quoted(spec: object) -> str:
    """JSON in double quotes, in which the shell puts the ids in the place of its variables."""
    text = json.dumps(spec, ensure_ascii=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'


def python(recipe: Recipe) -> str:
    """A program that needs OpenAI's client."""
    lines = [
        "import json",
        *(["import time"] if recipe.needs_tokenizer else []),
        "",
        "from openai import OpenAI",
        "",
        'client = OpenAI(**json.load(open(".weightsmith/credentials.json")))',
    ]
    names = []
    for number, place in enumerate(recipe.data):
        names.append(f"file{number or ''}")
        if Path(place).is_file():
            lines.append(f'{names[-1]} = client.files.create(file=open({place!r}, "rb"), purpose="fine-tune").id')
        else:
            lines.append(f"{names[-1]} = {place!r}")
    tokenizer = recipe.tokenizer
    if recipe.needs_tokenizer:
        tokenizer = "<tokenizer>"
        lines += [
            f'first = client.post("/jobs", cast_to=object, body={_literal(recipe.tokenizer_spec(names), names)})',
            'while first["state"] not in ("succeeded", "failed", "cancelled"):',
            "    time.sleep(1)",
            "    first = client.get(f\"/jobs/{first['id']}\", cast_to=object)",
            'tokenizer = first["result"]["tokenizer"]',
        ]
    spec = recipe.spec(names, tokenizer, _format(recipe))
    lines += [f'job = client.post("/jobs", cast_to=object, body={_literal(spec, names)})', 'print(job["id"])']
    return "\n".join(lines)


def _literal(spec: object, names: list[str]) -> str:
    """A Python literal in which the ids are variables."""
    text = repr(spec).replace("'<tokenizer>'", "tokenizer")
    for name in names:
        text = text.replace(f"'file': '{name}'", f"'file': {name}")
    return text


def _format(recipe: Recipe) -> str | None:
    """Told by the end of the first file's name: plain text is text, of rows nothing is known before they are read."""
    return "text" if Path(recipe.data[0]).suffix in (".txt", ".md") else None
