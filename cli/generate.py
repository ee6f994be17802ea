"""`weightsmith generate` and `weightsmith chat`: words from a model, as they come."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.references import Model, model_id
from cli.session import Session, printable, session_of

generate_app = noun()
chat_app = noun()

Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0: always the likeliest token.", min=0, max=2)]
TopP = Annotated[float, typer.Option(help="Only the likeliest tokens of this total probability.", min=0, max=1)]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; may be given four times.")]
Stream = Annotated[bool, typer.Option("--stream/--no-stream", help="Show words as they come.")]


@generate_app.command()
def generate(
    ctx: typer.Context,
    model: Model,
    prompt: Annotated[str, typer.Argument(help="What to continue; - reads standard input.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="At most so many.", min=1)] = 100,
    temperature: Temperature = 0.8,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    n: Annotated[int, typer.Option("--samples", help="How many texts.", min=1, max=16)] = 1,
    beams: Annotated[
        int | None, typer.Option(help="Beam search, by encoder-decoders; nothing is drawn then.", min=2, max=16)
    ] = None,
    stream: Stream = True,
) -> None:
    """Let a model continue a text.

    \b
    Examples:
      weightsmith generate pt:default:plays:1a2b3c4d "ROMEO:"
      weightsmith generate plays - --temperature 0 --seed 7 < prompt.txt
      weightsmith generate en-zh "Good morning." --beams 4
    """
    session = session_of(ctx)
    body = {
        "model": model_id(session, model),
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
        "n": n,
        "num_beams": beams,
    }
    if beams is not None:
        body |= {"temperature": None, "top_p": None}
    body = {name: value for name, value in body.items() if value is not None}
    if stream and n == 1 and not session.json:
        write(choice.get("text", "") for choice in _choices(session, "completions", body))
        return
    answer = session.client.post("completions", body, timeout=600.0)
    if session.json:
        session.raw(answer)
        return
    for choice in answer["choices"]:
        write(iter([choice["text"]]))


@chat_app.command()
def chat(
    ctx: typer.Context,
    model: Model,
    message: Annotated[str | None, typer.Argument(help="One message; without it you talk back and forth.")] = None,
    system: Annotated[str | None, typer.Option(help="What it should know beforehand.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Of an answer.", min=1)] = 256,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    stream: Stream = True,
) -> None:
    """Talk to a model. Without a message: line by line, Ctrl-D ends.

    \b
    Examples:
      weightsmith chat helper "What is a tokenizer?"
      weightsmith chat helper
    """
    session = session_of(ctx)
    if message is None and not sys.stdin.isatty():
        raise Problem("give a message; - reads it from standard input", exit_code=ExitCode.USAGE)
    settings: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    settings["model"] = model_id(session, model)
    settings |= {name: value for name, value in (("seed", seed), ("stop", stop or None)) if value is not None}
    turns: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if message is not None:
        turns.append({"role": "user", "content": sys.stdin.read() if message == "-" else message})
        if session.json:
            session.raw(session.client.post("chat/completions", settings | {"messages": turns}, timeout=600.0))
        else:
            answer(session, settings, turns, stream=stream)
        return
    talk(session, settings, turns, stream=stream)


def talk(session: Session, settings: dict[str, Any], turns: list[dict[str, str]], *, stream: bool) -> None:
    """Question and answer until the user has had enough. Ctrl-C ends an answer, not the talk."""
    session.say(f"{settings['model']}; Ctrl-D ends")
    while True:
        try:
            line = input("> ")
        except EOFError:
            session.say("")
            return
        if not line.strip():
            continue
        turns.append({"role": "user", "content": line})
        try:
            said = answer(session, settings, turns, stream=stream)
        except KeyboardInterrupt:
            session.say("")
            turns.pop()
            continue
        turns.append({"role": "assistant", "content": said})


def answer(session: Session, settings: dict[str, Any], turns: list[dict[str, str]], *, stream: bool) -> str:
    """Print the next answer and return it."""
    body = settings | {"messages": turns}
    if stream:
        deltas = (choice["delta"] for choice in _choices(session, "chat/completions", body))
        return write(delta.get("content") or "" for delta in deltas)
    found = session.client.post("chat/completions", body, timeout=600.0)
    return write(iter([found["choices"][0]["message"]["content"] or ""]))


def _choices(session: Session, path: str, body: dict[str, Any]) -> Iterator[Any]:
    for chunk in session.client.events("POST", path, json=body | {"stream": True}):
        yield from chunk["choices"]


def write(pieces: Iterator[str]) -> str:
    """Print pieces as they come, and a line end behind them; returns the whole."""
    said = []
    shown = printable if sys.stdout.isatty() else str
    for piece in pieces:
        said.append(piece)
        sys.stdout.write(shown(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(said)
