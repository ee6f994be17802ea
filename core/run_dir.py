"""The run directory: the whole contract between a supervisor and the child process that does the work.

    spec.json       JobSpec, resolved
    plan.json       Plan (training only)
    preparation.json  Preparation: what the validating stage found (training only)
    inputs.json     RunInputs: where the inputs lie on this machine
    events.jsonl    what the child reports, one `core.events.Event` a line; appended, flushed per line
    child.log       its stdout and stderr
    …               results, named by its events with paths relative to the run directory

Three programs keep this contract: `core.data.prepare`, `core.data.train_tokenizer`, `core.training.run`. Each takes
the run directory as its only argument, so a person can repeat a run by hand; each ends on SIGTERM after saving what
it must, and on the end of its standard input (its supervisor is gone).
"""

import json
from pathlib import Path

from pydantic import Field

from core.adapters.peft_config import AdapterBase
from core.data.formats import FormatName
from core.events import Event
from core.models.config import ModelConfig
from core.spec import Spec

SPEC = "spec.json"
PLAN = "plan.json"
PREPARATION = "preparation.json"
INPUTS = "inputs.json"
EVENTS = "events.jsonl"
LOG = "child.log"


class InputFile(Spec):
    """An uploaded file, on this machine."""

    id: str
    path: Path
    filename: str
    sha256: str
    format: FormatName


class RunInputs(Spec):
    """Absolute paths of what a child reads. Which ones are set depends on the program."""

    files: tuple[InputFile, ...] = ()
    """prepare, train_tokenizer: in the order of `data.train`"""
    validation_file: InputFile | None = None
    tokenizer: Path | None = None
    """directory with `tokenizer.json` (and `chat_template.jinja`); None: the built-in byte tokenizer"""
    config: ModelConfig | None = None
    """of the model that is trained, as it was resolved at submit; its labels may still be open"""
    model: Path | None = None
    """directory of the model to start from; where that is an adapter, of its base"""
    adapter: Path | None = None
    """PEFT directory of the adapter to go on with, or to merge first where all weights are trained"""
    base: AdapterBase | None = None
    """what an adapter that is trained stands on, for those who load it"""
    reference: Path | None = None
    """directory of a second model that is only read: the reference of a preference objective, a teacher"""
    reference_adapter: Path | None = None
    """PEFT directory that belongs to it"""
    datasets: dict[str, Path] = Field(default_factory=dict)
    """token datasets by content hash: for prepare those that exist already, for training those it reads"""
    checkpoint: Path | None = None
    """checkpoint directory to resume from"""
    checkpoint_manifest_sha256: str | None = None


class RunDir:
    """Reads and writes the files above."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, value: Spec) -> None:
        (self.path / name).write_text(value.model_dump_json(indent=1))

    def read_json(self, name: str) -> object:
        return json.loads((self.path / name).read_text())

    def inputs(self) -> RunInputs:
        return RunInputs.model_validate(self.read_json(INPUTS))

    def report(self, event: Event) -> None:
        """Append one event. A line is written whole or not at all (O_APPEND, one write)."""
        with (self.path / EVENTS).open("ab", buffering=0) as log:
            log.write(event.model_dump_json().encode() + b"\n")
