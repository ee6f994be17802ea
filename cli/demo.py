"""`weightsmith demo`: from raw text to a model that answers, through the public API alone, on one machine.

    stack -> text -> tokenizer -> pretraining and a look at its figures -> fine-tuning -> words

Every call is one that a user can make: the `openai` client where OpenAI has the call, plain HTTP where it has not.
"""

import hashlib
import importlib.util
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli import corpus
from cli.commands import noun
from cli.corpus import Corpus
from cli.problem import ExitCode, Problem
from cli.session import Session, count, duration, size
from cli.story import MARGIN, command, farewell, heading, tell, write
from cli.up import running_stack, while_up

if TYPE_CHECKING:
    from openai import OpenAI

    from cli.credentials import Credentials

TAG = {"made_by": "weightsmith demo"}
LOOK_SECONDS = 0.5
MIN_PAIRS = 200
TUNING_SECONDS = 60.0
TOKENS_OF_A_PAIR = 250
"""what a pair costs, as tokens of pretraining: two epochs, short rows"""

app = noun()


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    max_bytes: int
    max_pairs: int
    vocab_size: int
    preset: str
    sequences: int
    """of a batch"""
    seconds: float
    """of pretraining"""
    evaluate_every: int
    """steps"""
    epochs: int
    """of fine-tuning"""
    answer_tokens: int
    bar: float
    """The validation loss must be below this part of the unigram entropy."""


FULL = Scale(
    max_bytes=6_000_000,
    max_pairs=1200,
    vocab_size=4096,
    preset="nano",
    sequences=8,
    seconds=150.0,
    evaluate_every=150,
    epochs=2,
    answer_tokens=100,
    bar=0.9,
)
QUICK = Scale(
    max_bytes=150_000,
    max_pairs=40,
    vocab_size=512,
    preset="nano",
    sequences=2,
    seconds=6.0,
    evaluate_every=10,
    epochs=1,
    answer_tokens=16,
    bar=1.2,
)


@app.command()
def demo(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Your own text: a file, or a folder of files. Default: Python's own library.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for everything. Default: .weightsmith here.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of pretraining. Default: 2.5.", min=0.05)] = None,
    quick: Annotated[bool, typer.Option("--quick", hidden=True)] = False,
) -> None:
    """From raw text to a model that answers, in about five minutes.

    Trains a tokenizer, pretrains a model from random weights, fine-tunes it and lets both speak. Everything is kept,
    so that you can go on with it.

    \b
    Examples:
      weightsmith demo
      weightsmith demo --data ~/books --minutes 10
    """
    missing = [name for name in ("openai", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise Problem(f"the demo needs {' and '.join(missing)}", hint="pip install 'weightsmith[demo]'")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    scale = QUICK if quick else FULL
    if minutes is not None:
        scale = replace(scale, seconds=60 * minutes)
    folder = (home or Path(".weightsmith")).resolve()
    typer.echo("Weightsmith: from raw text to a model that answers")
    limits = {"max_bytes": scale.max_bytes, "max_pairs": scale.max_pairs}
    text = corpus.from_path(data, **limits) if data else corpus.standard_library(**limits)
    place = str(data) if data else "the source of Python's standard library"
    heading(1, "Stack")
    goes_on = running_stack(folder) is not None
    with while_up(folder, tell) as credentials:
        Demo(credentials, folder, scale, goes_on=goes_on).run(text, place)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Demo:
    """One run of the demo against one stack."""

    def __init__(self, credentials: "Credentials", folder: Path, scale: Scale, *, goes_on: bool) -> None:
        import openai

        self.goes_on = goes_on
        self.speed = 0.0
        self.folder = folder
        self.scale = scale
        self.session = Session(base_url=credentials.base_url, api_key=credentials.api_key)
        self.client: OpenAI = openai.OpenAI(
            base_url=credentials.base_url,
            api_key=credentials.api_key,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )

    def run(self, text: Corpus, place: str) -> None:
        began = time.monotonic()
        self.cancel_leftovers()
        heading(2, "Text")
        tell(f"{place}: {len(text.documents):,} documents, {size(text.num_bytes).shown}")
        file = self.upload(f"{text.name}.jsonl", corpus.as_jsonl(text))
        tokenizer = self.tokenizer(file)
        model = self.pretrain(text.name, file, tokenizer)
        helper = self.fine_tune(model, text)
        self.speak(model, helper, text)
        typer.echo(f"\nDone in {duration(time.monotonic() - began)}.")
        typer.echo(farewell(model, helper, self.folder, goes_on=self.goes_on))

    def cancel_leftovers(self) -> None:
        """Jobs of a demo that was killed would only be in the way."""
        for job in self.session.client.pages("jobs", filters={"metadata[made_by]": TAG["made_by"]}):
            if job["state"] not in ("succeeded", "failed", "cancelled"):
                self.cancel(job["id"])

    def upload(self, name: str, content: bytes) -> str:
        """The id of the file with this content, which an earlier demo may have uploaded."""
        name = f"{hashlib.sha256(content).hexdigest()[:12]}-{name}"
        for file in self.client.files.list(purpose="fine-tune"):
            if file.filename == name and file.bytes == len(content):
                tell(f"uploaded before: {file.id}")
                return file.id
        made = self.client.files.create(file=(name, content), purpose="fine-tune")
        made = self.client.files.wait_for_processing(made.id, poll_interval=0.2)
        if made.status != "processed":
            raise Problem(f"{name} was refused: {made.status_details}")
        tell(f"uploaded and checked: {made.id}")
        return made.id

    def tokenizer(self, file: str) -> str:
        heading(3, "Tokenizer")
        mark = TAG | {"tokenizer_of": f"{file}:{self.scale.vocab_size}"}
        known = {row["id"] for row in self.session.client.pages("tokenizers")}
        filters = {f"metadata[{name}]": value for name, value in mark.items()}
        for job in self.session.client.pages("jobs", filters=filters | {"state": "succeeded"}):
            if (made := job["result"]["tokenizer"]) in known:
                tell(f"trained before: {made}")
                return str(made)
        spec = {
            "kind": "tokenizer",
            "vocab_size": self.scale.vocab_size,
            "data": {"train": [{"file": file}]},
            "metadata": mark,
        }
        job, took = self.finish(spec)
        made = str(job["result"]["tokenizer"])
        tell(f"{self.scale.vocab_size:,} tokens of byte pairs, learned in {duration(took)}: {made}")
        return made

    def pretrain(self, name: str, file: str, tokenizer: str) -> str:
        """Train a model from random weights and see what it has learned."""
        heading(4, "Pretraining from random weights")
        spec = {
            "kind": "train",
            "suffix": name,
            "model": {"init": "random", "family": "llama", "preset": self.scale.preset, "tokenizer": tokenizer},
            "data": {
                "train": [{"file": file}],
                "validation": {"fraction": 0.05},
                "format": "text",
                "sequence_length": 256,
            },
            "objective": {"kind": "causal_lm"},
            "budget": {"seconds": self.scale.seconds},
            "batch": {"sequences": self.scale.sequences},
            "precision": "bf16",
            "evaluation": {"every": self.scale.evaluate_every, "samples": 0},
            "checkpoints": {"every": 4 * self.scale.evaluate_every, "keep": 1, "keep_best": False},
            "seed": 7,
            "metadata": TAG,
        }
        job, took = self.finish(spec)
        progress = job["progress"]
        tell(f"{count(progress['tokens']).shown} tokens in {progress['step']} steps, {duration(took)}")
        self.speed = progress["tokens"] / self.scale.seconds
        self.judge(job)
        return str(job["result"]["model"])

    def judge(self, job: dict[str, Any]) -> None:
        """Draw the loss, and compare it with what a model would reach that only counts tokens.

        Raises:
            Problem: it has not learned.
        """
        from cli.reports import loss_curve, series_of

        found = self.session.client.get(f"jobs/{job['id']}/metrics", names="train_loss,validation_loss", max_points=300)
        width = min(78, shutil.get_terminal_size().columns - 1)
        typer.echo()
        typer.echo(loss_curve(series_of(found), width=width, braille="utf" in (sys.stdout.encoding or "").lower()))
        typer.echo()
        receipt = self.session.client.get(f"jobs/{job['id']}/receipt")
        entropy = float(receipt["preparation"]["unigram_entropy"])
        loss = float(job["metrics"]["validation_loss"])
        tell(f"validation loss {loss:.2f} nats a token, on text it has never seen")
        tell(f"unigram entropy {entropy:.2f} nats a token: what counting tokens would reach")
        if loss > self.scale.bar * entropy:
            raise Problem(
                f"the model has not learned: {loss:.2f} is not below {self.scale.bar:.0%} of {entropy:.2f}",
                hint="a slow or busy machine needs longer: weightsmith demo --minutes 10",
            )

    def fine_tune(self, model: str, text: Corpus) -> str:
        """Teach it to answer, with OpenAI's own calls."""
        heading(5, "Fine-tuning on conversations, with OpenAI's client")
        affordable = max(MIN_PAIRS, int(TUNING_SECONDS * self.speed / TOKENS_OF_A_PAIR))
        text = replace(text, pairs=text.pairs[:affordable])
        tell(f"{len(text.pairs):,} questions and answers made from the same text")
        file = self.upload(f"{text.name}-chat.jsonl", corpus.chats_as_jsonl(text))
        job = self.client.fine_tuning.jobs.create(
            model=model,
            training_file=file,
            suffix="helper",
            seed=7,
            method={
                "type": "supervised",
                "supervised": {
                    # A model this small and young still learns fast.
                    "hyperparameters": {"n_epochs": self.scale.epochs, "learning_rate_multiplier": 4}
                },
            },
            metadata=TAG,
        )
        began = time.monotonic()
        job = self.finish_tuning(job.id)
        if job.status != "succeeded" or job.fine_tuned_model is None:
            reason = job.error.message if job.error else job.status
            raise Problem(f"fine-tuning failed: {reason}", exit_code=ExitCode.JOB_FAILED)
        tell(f"{count(job.trained_tokens or 0).shown} tokens, {duration(time.monotonic() - began)}")
        return str(job.fine_tuned_model)

    def finish_tuning(self, job_id: str) -> Any:
        """Watch a fine-tuning job as any user of OpenAI's client would."""
        from cli.watch import display

        states = {"validating_files": "validating"}
        jobs = self.client.fine_tuning.jobs
        with self.cancelling(lambda: jobs.cancel(job_id)), display(self.session, margin=MARGIN) as shown:
            while True:
                job = jobs.retrieve(job_id)
                if job.status in ("succeeded", "failed", "cancelled"):
                    return job
                events = jobs.list_events(job_id, limit=10).data
                newest = next((event.data for event in events if event.type == "metrics" and event.data), {})
                step, total = _figure(newest, "step"), _figure(newest, "total_steps")
                shown.show(
                    {
                        "state": states.get(job.status, job.status),
                        "progress": {"step": step, "total_steps": total, "fraction": step / total if total else 0.0},
                        "metrics": {"train_loss": _figure(newest, "train_loss")},
                    }
                )
                time.sleep(LOOK_SECONDS)

    def speak(self, model: str, helper: str, text: Corpus) -> None:
        """Let both models continue a text and answer a question, streamed."""
        heading(6, "Words, streamed")
        prompt = text.prompt
        for name in (model, helper):
            tell(f"{name} goes on after {prompt!r}:")
            chunks = self.client.completions.create(
                model=name, prompt=prompt, max_tokens=self.scale.answer_tokens, temperature=0.7, seed=7, stream=True
            )
            write(prompt, (choice.text for chunk in chunks for choice in chunk.choices))
        question = text.pairs[0][0]
        for name in (model, helper):
            tell(f"{name} is asked: {' '.join(question.split())}")
            answer = self.client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": question}],
                max_tokens=self.scale.answer_tokens,
                temperature=0.3,
                seed=7,
                stream=True,
            )
            write("", (choice.delta.content or "" for chunk in answer for choice in chunk.choices))

    def finish(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Submit a job and follow it to its end; returns it and the seconds it took.

        Raises:
            Problem: it did not succeed.
        """
        from cli.watch import follow

        began = time.monotonic()
        job = self.session.client.post("jobs", spec)
        with self.cancelling(lambda: self.cancel(job["id"])):
            over = follow(self.session, job["id"], show_events=False, margin=MARGIN)
        if over["state"] != "succeeded":
            error = over.get("error") or {}
            raise Problem(
                f"{over['id']} {over['state']}: {error.get('message', 'no reason is known')}",
                exit_code=ExitCode.JOB_FAILED,
                hint=error.get("hint") or f"its log: {command()} jobs logs {over['id']}",
            )
        return over, time.monotonic() - began

    def cancel(self, job_id: str) -> None:
        try:
            self.session.client.post(f"jobs/{job_id}/cancel")
        except Problem as problem:
            if problem.exit_code is not ExitCode.WRONG_STATE:
                raise

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Ctrl-C takes the job along: nobody would wait for its result."""
        try:
            yield
        except KeyboardInterrupt:
            typer.echo("\nstopping; everything that was finished is kept", err=True)
            cancel()
            raise


def _figure(data: object, name: str) -> Any:
    return data.get(name) if isinstance(data, dict) else None
