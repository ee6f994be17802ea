"""A child that keeps the contract of core/run_dir.py without doing any work: it follows a script.

The script is JSON in the job's metadata: `script`, or `script_<fence>` for one attempt. Each entry is a list:

    ["prepare"]              report datasets and facts
    ["steps", n]             report n steps after the one it stands at
    ["save", reason]         write a checkpoint and report it
    ["until_asked"]          wait for SIGTERM
    ["deaf"]                 ignore SIGTERM from now on
    ["say", text]            to standard output; also "say_much" and "say_environment"
    ["grandchild"]           start a process and say its number
    ["tokenizer"]            finish as a tokenizer job does
    ["sleep", seconds]
    ["die", signal]
    ["exit", code]
    ["line", text]           a raw line of events.jsonl
    ["fail", {…}]            report Failed
    ["finish", reason]       report Finished, with the last checkpoint as the result
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from core import child
from core.events import Failed, Finished, Prepared, Resumed, Saved, Started, Step, parse_event
from core.run_dir import EVENTS, SPEC, RunDir

FACTS = {
    "train": ["d1"],
    "validation": None,
    "num_rows": 8,
    "num_tokens": 256,
    "num_supervised_tokens": 256,
    "num_validation_rows": 0,
    "num_documents": 1,
    "unigram_entropy": 1.0,
    "bytes_per_token": 1.0,
}


class FakeChild:
    def __init__(self, run_dir: RunDir, stop: child.Stop) -> None:
        self.run_dir, self.stop = run_dir, stop
        self.at = 0
        self.saved: str | None = None

    def follow(self, script: list[list[Any]]) -> None:
        for verb, *arguments in script:
            getattr(self, verb)(*arguments)

    def begin(self) -> None:
        self.run_dir.report(Started(total_steps=20))
        inputs = self.run_dir.inputs()
        if inputs.checkpoint is not None:
            self.at = json.loads((inputs.checkpoint / "manifest.json").read_text())["step"]
            self.run_dir.report(Resumed(step=self.at))

    def prepare(self) -> None:
        folder = self.run_dir.path / "datasets" / "d1"
        folder.mkdir(parents=True)
        (folder / "tokens").write_bytes(b"\x01" * 64)
        self.run_dir.report(Prepared(datasets={"d1": "datasets/d1"}, facts=FACTS))

    def steps(self, count: int, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.at += 1
            time.sleep(seconds)
            self.run_dir.report(
                Step(
                    step=self.at,
                    loss=1 / self.at,
                    learning_rate=0.1,
                    grad_norm=1.0,
                    tokens=self.at * 10,
                    tokens_per_second=10.0,
                    seconds=0.1,
                )
            )

    def save(self, reason: str = "scheduled", best: bool = False) -> None:
        path = self.run_dir.path / "checkpoints" / f"step-{self.at}"
        (path / "model").mkdir(parents=True)
        weights = f"weights of step {self.at}".encode()
        (path / "model" / "model.safetensors").write_bytes(weights)
        (path / "model" / "chat_template.jinja").write_text("{{ messages }}")
        files = [
            {"name": str(file.relative_to(path)), "bytes": file.stat().st_size, "sha256": _sha256(file.read_bytes())}
            for file in sorted((path / "model").iterdir())
        ]
        manifest = json.dumps({"step": self.at, "files": files}).encode()
        (path / "manifest.json").write_bytes(manifest)
        self.saved = f"checkpoints/step-{self.at}"
        event = {"kind": "saved", "step": self.at, "path": self.saved, "manifest_sha256": _sha256(manifest)}
        saved = parse_event(json.dumps(event | {"size_bytes": 100, "reason": reason, "best": best}))
        assert isinstance(saved, Saved)
        self.run_dir.report(saved)

    def until_asked(self) -> None:
        while not self.stop.requested:
            time.sleep(0.01)

    def deaf(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def say_much(self, line: str, times: int) -> None:
        sys.stdout.write(line * times)

    def grandchild(self) -> None:
        self.say(f"{subprocess.Popen(['sleep', '60']).pid}\n")

    def say_environment(self) -> None:
        sys.stdout.write(json.dumps({"env": dict(os.environ), "uid": os.getuid(), "cwd": os.getcwd()}) + "\n")

    def tokenizer(self) -> None:
        (self.run_dir.path / "tokenizer").mkdir()
        (self.run_dir.path / "tokenizer" / "tokenizer.json").write_text("{}")
        metrics = {"vocab_size": 512.0, "bytes_per_token": 3.0}
        self.run_dir.report(Finished(path="tokenizer", metrics=metrics))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    def exit(self, code: int) -> None:
        os._exit(code)

    def line(self, text: str) -> None:
        with (self.run_dir.path / EVENTS).open("a") as file:
            file.write(text)

    def fail(self, failed: dict[str, Any]) -> None:
        self.run_dir.report(Failed.model_validate(failed))
        os._exit(1)

    def finish(self, reason: str = "completed") -> None:
        event = {"kind": "finished", "step": self.at, "path": self.saved, "reason": reason, "metrics": {"loss": 0.5}}
        finished = parse_event(json.dumps(event))
        assert isinstance(finished, Finished)
        self.run_dir.report(finished)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(run_dir: RunDir, stop: child.Stop) -> None:
    spec = run_dir.read_json(SPEC)
    assert isinstance(spec, dict)
    metadata, fence = spec["metadata"], run_dir.path.name
    fake = FakeChild(run_dir, stop)
    prepares = not (run_dir.path / "plan.json").exists() and spec["kind"] == "train"
    default = "prepare" if prepares else "script"
    script = json.loads(metadata.get(f"script_{fence}") or metadata.get(default) or '[["prepare"]]')
    if not prepares:
        fake.begin()
    fake.follow(script)


if __name__ == "__main__":
    child.run(main)
