"""`weightsmith classify` and `weightsmith embed`: what a model says of texts."""

import json
import sys
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.references import Model, model_id
from cli.session import Column, session_of

classify_app = noun()
embed_app = noun()

Texts = Annotated[list[str], typer.Argument(help="One or several; - reads standard input, a text a line.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Drop the end of what is too long.")]


@classify_app.command()
def classify(
    ctx: typer.Context,
    model: Model,
    texts: Texts,
    question: Annotated[str | None, typer.Option(help="Find its answer in the texts.")] = None,
    pair: Annotated[str | None, typer.Option(help="A second text, read together with each.")] = None,
    prompt: Annotated[str | None, typer.Option(help="For reward models: what the texts answer.")] = None,
    top: Annotated[int | None, typer.Option(help="At most so many labels or answers.", min=1, max=100)] = None,
    truncate: Truncate = False,
) -> None:
    """Labels, tags, answers, scores or hidden tokens of texts, by what the model has learned.

    \b
    Examples:
      weightsmith classify polarity "A joy from start to end."
      weightsmith classify chunks "He reckons the deficit will narrow."
      weightsmith classify qa --question "Who wrote it?" "Ada wrote it."
      weightsmith classify bert "The capital of France is [MASK]."
      weightsmith classify polarity - --json < reviews.txt
    """
    session = session_of(ctx)
    if sum(option is not None for option in (question, pair, prompt)) > 1:
        raise Problem("give one of --question, --pair and --prompt", exit_code=ExitCode.USAGE)
    read = _all(texts)
    inputs = [_input(text, question=question, pair=pair, prompt=prompt) for text in read]
    body = {"model": model_id(session, model), "input": inputs, "top_k": top, "truncate": truncate or None}
    answer = session.client.post("classifications", _given(body), timeout=600.0)
    if session.json:
        session.raw(answer)
        return
    rows = [row for text, item in zip(read, answer["data"], strict=True) for row in _rows(text, item)]
    session.listing({"data": rows}, _columns(answer["data"][0]["object"], len(inputs)), empty="nothing was found")


@embed_app.command()
def embed(
    ctx: typer.Context,
    model: Model,
    texts: Texts,
    dimensions: Annotated[int | None, typer.Option(help="Only the first ones.", min=1)] = None,
    truncate: Truncate = False,
) -> None:
    """Vectors of texts, of length 1: a JSON list on a line for each.

    \b
    Examples:
      weightsmith embed minilm "A cat sits on the mat."
      weightsmith embed minilm - < sentences.txt > vectors.jsonl
    """
    session = session_of(ctx)
    body = {
        "model": model_id(session, model),
        "input": _all(texts),
        "dimensions": dimensions,
        "truncate": truncate or None,
    }
    answer = session.client.post("embeddings", _given(body), timeout=600.0)
    if session.json:
        session.raw(answer)
        return
    for item in answer["data"]:
        typer.echo(json.dumps(item["embedding"]))


def _all(texts: list[str]) -> list[str]:
    if texts != ["-"]:
        return texts
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise Problem("standard input has no text", exit_code=ExitCode.USAGE)
    return lines


def _input(text: str, *, question: str | None, pair: str | None, prompt: str | None) -> Any:
    if question is not None:
        return {"question": question, "context": text}
    if pair is not None:
        return {"text": text, "text_pair": pair}
    return text if prompt is None else {"prompt": prompt, "completion": text}


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _rows(text: str, item: Any) -> list[dict[str, Any]]:
    """What is said of one text; `id` is what --quiet shows of it."""
    match item["object"]:
        case "classification":
            return [{"of": text, "id": label["label"], **label} for label in item["labels"]]
        case "tags":
            return [{"of": text, "id": span["text"], **span} for span in item["spans"]]
        case "answers":
            return [{"of": text, "id": answer["text"], **answer} for answer in item["answers"]]
        case "masks":
            return [{"of": text, "id": guess["token"], **guess} for mask in item["masks"] for guess in mask["tokens"]]
        case _:
            return [{"of": text, "id": _score(item), **item}]


def _columns(kind: str, num_texts: int) -> dict[str, Column]:
    of: dict[str, Column] = {"of": lambda row: row["of"]} if num_texts > 1 else {}
    match kind:
        case "classification":
            return of | {"label": lambda row: row["label"], "score": _score}
        case "tags":
            return of | {"label": lambda row: row["label"], "text": _text, "characters": _place, "score": _score}
        case "answers":
            return of | {"answer": _text, "characters": _place, "score": _score}
        case "masks":
            return of | {"token": lambda row: row["token"], "score": _score}
        case _:
            return of | {"score": _score}


def _score(row: Any) -> str:
    return f"{row['score']:.4g}"


def _text(row: Any) -> str:
    return row["text"] or "(not in the text)"


def _place(row: Any) -> str:
    return "" if row["start"] is None else f"{row['start']}-{row['end']}"
