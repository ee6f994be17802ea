"""Run directories with tiny models and data, trained inside the test's process."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.child import Stop
from core.data.batches import Batches
from core.data.examples import TokenExample
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.events import Event, Finished, Saved, Step, parse_event
from core.job_spec import TrainSpec
from core.run_dir import PLAN, PREPARATION, SPEC, RunDir, RunInputs
from core.training import run
from core.training.checkpoint import weights_sha256
from core.training.plan import Plan, Preparation, total_steps

VOCAB = Tokenizer.bytes().vocab_size
LENGTH = 16
BASE: dict[str, Any] = {
    "model": {
        "init": "random",
        "dimensions": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_length": LENGTH},
        "tokenizer": "bytes",
        "dropout": 0.1,
    },
    "data": {"train": [{"file": "file-1"}], "validation": {"fraction": 0.1}},
    "budget": {"epochs": 2.5},
    "batch": {"sequences": 6},
    "optimizer": {"learning_rate": 0.01},
    "precision": "fp32",
    "evaluation": {"every": 2, "samples": 1},
    "checkpoints": {"every": 3, "keep_best": False},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def documents(path: Path, count: int, *, seed: int) -> TokenDataset:
    """Text in which each byte follows from the one before: a model learns it in a few steps."""
    generator = np.random.default_rng(seed)
    starts, lengths = generator.integers(97, 122, count), generator.integers(9, 40, count)
    examples = (
        TokenExample.of([97 + (int(start) + 3 * at) % 26 for at in range(length)], [1.0] * int(length))
        for start, length in zip(starts, lengths, strict=True)
    )
    return write_token_dataset(path, examples, vocab_size=VOCAB, divisible=True)


class Killed(BaseException):
    """As if by SIGKILL: nothing tidies up."""


class Here(RunDir):
    """A run directory that watches what is reported into it, as a supervisor would."""

    def __init__(self, path: Path, *, watch: Callable[[Event], None] = lambda event: None) -> None:
        super().__init__(path)
        self.watch = watch

    def report(self, event: Event) -> None:
        super().report(event)
        self.watch(event)


class Attempt:
    """What an attempt reported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = [parse_event(line) for line in (path / "events.jsonl").read_bytes().splitlines()]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def steps(self) -> list[Step]:
        return self.of(Step)

    @property
    def finished(self) -> Finished:
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]

    @property
    def weights(self) -> str:
        """Hash of the result."""
        return weights_sha256(self.path / (self.finished.path or "") / "model")

    @property
    def saved(self) -> list[Saved]:
        return self.of(Saved)


class Lab:
    """One job: its data, and attempts at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train, self.held_out = documents(path / "t", 16, seed=0), documents(path / "v", 3, seed=1)
        self.attempts = 0
        self.inputs: dict[str, Any] = {}
        """further ones of `RunInputs`"""

    def spec(self, **fields: Any) -> TrainSpec:
        return TrainSpec.model_validate({**BASE, **fields})

    def lay_out(self, spec: TrainSpec, *, after: Attempt | None = None, **plan: Any) -> Path:
        """A run directory, resuming from the newest checkpoint of `after`."""
        self.attempts += 1
        run_dir = RunDir(self.path / f"attempt-{self.attempts}")
        run_dir.path.mkdir()
        batches = Batches(
            [self.train], [1.0], length=spec.data.sequence_length or LENGTH, packing=spec.data.packing, sequences=1,
            seed=spec.seed, predicts=spec.objective.predicts,
        )  # fmt: skip
        preparation = Preparation(
            train=("t",), validation="v", num_rows=batches.num_rows, num_tokens=int(self.train.offsets[-1]),
            num_supervised_tokens=1, num_validation_rows=5 if spec.data.validation else 0, num_documents=1,
            unigram_entropy=math.log(26), bytes_per_token=1.0,
        )  # fmt: skip
        decided = Plan(
            total_steps=total_steps(spec, preparation), micro_batch=4, evaluate_every=spec.evaluation.every,
            save_every=spec.checkpoints.every or 1, device="cpu", device_name="cpu", threads=1,
            precision=spec.precision, compiled=False, attention="math", torch=torch.__version__, parameters=1,
        )  # fmt: skip
        saved = after.saved[-1] if after and after.saved else None
        run_dir.write(SPEC, spec)
        run_dir.write(PREPARATION, preparation)
        run_dir.write(PLAN, decided.model_copy(update=plan))
        inputs = RunInputs(
            datasets={"t": self.train.path, "v": self.held_out.path},
            checkpoint=after.path / saved.path if after and saved else None,
            checkpoint_manifest_sha256=saved.manifest_sha256 if saved else None,
            **self.inputs,
        )
        run_dir.write("inputs.json", inputs)
        return run_dir.path

    def run(
        self,
        spec: TrainSpec,
        *,
        after: Attempt | None = None,
        stop_when: Callable[[Event], bool] = lambda event: False,
        kill_when: Callable[[Event], bool] = lambda event: False,
        **plan: Any,
    ) -> Attempt:
        """An attempt that is asked to stop, or is killed, right after it has reported such an event."""
        stop = Stop()

        def watch(event: Event) -> None:
            if stop_when(event):
                stop.request()
            if kill_when(event):
                raise Killed

        here = Here(self.lay_out(spec, after=after, **plan), watch=watch)
        with contextlib.suppress(Killed):
            run.main(here, stop)
        return Attempt(here.path)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
