"""What `train`, `estimate` and their dry runs are told, and the job that is made of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.completion import complete_models
from cli.problem import ExitCode, Problem
from cli.session import Session

BYTES = "bytes"
LEARNED_FROM = {
    "text": "causal_lm",
    **dict.fromkeys(("chat", "prompt_completion", "alpaca", "sharegpt"), "supervised"),
    "preference": "dpo",
    "kto": "kto",
    "labelled": "sequence_classification",
    "scored": "regression",
    "text_pair": "sequence_to_sequence",
    "tagged": "token_classification",
    "question": "question_answering",
    "similar": "contrastive",
}
"""The objective that is meant when none is named, by the file's format."""

Data = Annotated[list[str], typer.Option("--data", "-d", help="A file here, or the id or name of an uploaded one.")]
Base = Annotated[
    str | None,
    typer.Option("--from", help="Model to fine-tune. Default: random weights.", autocompletion=complete_models),
]
Preset = Annotated[str, typer.Option(help="Size of a new model: nano, micro, mini, small, …")]
Family = Annotated[str, typer.Option(help="Of a new model: llama, gpt2, bert, t5, …")]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", help="A tokenizer's id, or bytes. Default: one is trained first.")
]
VocabSize = Annotated[int, typer.Option(help="Of that tokenizer.", min=512)]
ObjectiveOption = Annotated[
    str | None, typer.Option("--objective", help="causal_lm, supervised, dpo, … Default: by the file's format.")
]
SequenceLength = Annotated[int, typer.Option(help="Tokens of a training row.", min=8)]
Steps = Annotated[int | None, typer.Option(min=1, help="How long, in steps.")]
Epochs = Annotated[float | None, typer.Option(help="How long, in passes over the data. Default: 1, or 3 to fine-tune.")]
BatchOption = Annotated[int | None, typer.Option("--batch", min=1, help="Sequences of a step. Default: by size.")]
LearningRate = Annotated[float | None, typer.Option(help="Default: by size.")]
Lora = Annotated[int | None, typer.Option(min=1, help="Train an adapter of this rank instead of all weights.")]
Validation = Annotated[float, typer.Option(help="Part of the data that is held out.", min=0.0, max=0.5)]
Suffix = Annotated[str | None, typer.Option(help="Part of the model's name. Default: the file's.")]
Seed = Annotated[int, typer.Option(min=0)]


@dataclass(frozen=True)
class Recipe:
    """All that is said on the line; `spec` makes the job of it once the files have ids."""

    data: tuple[str, ...]
    base: str | None
    preset: str
    family: str
    tokenizer: str | None
    vocab_size: int
    objective: str | None
    sequence_length: int
    steps: int | None
    epochs: float | None
    batch: int | None
    learning_rate: float | None
    lora: int | None
    validation: float
    suffix: str | None
    seed: int

    def __post_init__(self) -> None:
        if not self.data:
            raise Problem("nothing to train on", exit_code=ExitCode.USAGE, hint="name a file with --data FILE")
        if self.steps is not None and self.epochs is not None:
            raise Problem("give --steps or --epochs, not both", exit_code=ExitCode.USAGE)

    @property
    def needs_tokenizer(self) -> bool:
        """One must be trained first."""
        return self.base is None and self.tokenizer is None

    def tokenizer_spec(self, files: Sequence[str]) -> dict[str, Any]:
        train = [{"file": file} for file in files]
        return {"kind": "tokenizer", "vocab_size": self.vocab_size, "data": {"train": train}}

    def spec(self, files: Sequence[str], tokenizer: str | None, format: str | None) -> dict[str, Any]:
        """The job. `format`: that of the files, where it is known."""
        from cli.corpus import fit_for_name

        if self.base is not None:
            model: dict[str, Any] = {"init": "pretrained", "from": self.base}
        else:
            model = {"init": "random", "family": self.family, "preset": self.preset, "tokenizer": tokenizer}
        usual = LEARNED_FROM.get(format or "", "supervised" if self.base else "causal_lm")
        data: dict[str, Any] = {"train": [{"file": file} for file in files], "sequence_length": self.sequence_length}
        spec: dict[str, Any] = {
            "kind": "train",
            "model": model,
            "data": data | ({"validation": {"fraction": self.validation}} if self.validation else {}),
            "objective": {"kind": self.objective or usual},
            "budget": {"steps": self.steps} if self.steps else {"epochs": self.epochs or (3 if self.base else 1)},
            "seed": self.seed,
        }
        if self.batch is not None:
            spec["batch"] = {"sequences": self.batch}
        if self.lora is not None:
            spec["adapter"] = {"kind": "lora", "rank": self.lora}
        if self.learning_rate is not None:
            spec["optimizer"] = {"kind": "adamw", "learning_rate": self.learning_rate}
        local = (fit_for_name(Path(place)) for place in self.data if Path(place).is_file())
        if suffix := self.suffix or next(local, None):
            spec["suffix"] = suffix
        return spec


def uploaded(session: Session, place: str) -> dict[str, Any]:
    """A file of the service: uploaded now, or before with the same name and bytes.

    Raises:
        Problem: there is no such file, here or there.
    """
    from cli.files import upload
    from cli.references import file_id

    path = Path(place)
    if not path.is_file():
        try:
            found: dict[str, Any] = session.client.get(f"files/{file_id(session, place)}")
        except Problem as problem:
            if problem.exit_code is not ExitCode.NOT_FOUND:
                raise
            message = f"{place}: no such file here, and none that was uploaded is called so"
            raise Problem(message, exit_code=ExitCode.USAGE, hint="`weightsmith files ls` lists them") from None
        return found
    known = same_file(session, path)
    if known is not None:
        session.say(f"{path.name} was uploaded before: {known['id']}")
        return known
    file = upload(session, path)
    session.say(f"uploaded {path.name}: {file['id']}")
    return file


def same_file(session: Session, path: Path) -> dict[str, Any] | None:
    """The uploaded file with this name and these bytes, if there is one."""
    num_bytes, digest = path.stat().st_size, ""
    for file in session.client.pages("files", limit=1000):
        if (file["filename"], file["bytes"], file["purpose"]) != (path.name, num_bytes, "fine-tune"):
            continue
        if not digest:
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if file.get("sha256") == digest and file["status"] != "error":
            return file
    return None


def known_tokenizer(session: Session, recipe: Recipe, files: Sequence[str]) -> str | None:
    """A tokenizer that was trained on just these files, if there is one: training it again would give the same."""
    kept = {row["id"] for row in session.client.pages("tokenizers")}
    for job in session.client.pages("jobs", limit=1000, filters={"state": "succeeded", "kind": "tokenizer"}):
        spec, made = job["spec"], (job.get("result") or {}).get("tokenizer")
        same = [source["file"] for source in spec["data"]["train"]] == list(files)
        if same and spec.get("vocab_size") == recipe.vocab_size and made in kept:
            return str(made)
    return None
