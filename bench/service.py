"""What the service costs a training run, and how long a job waits before it starts.

A stack runs as a user would run it (`weightsmith up`, SQLite). Rounds are paired: the job through the REST API, then
the very run directory that its supervisor had prepared, by hand (`python -m core.training.run DIR`); both are timed by
the same watcher of `events.jsonl`, from the first step to the last.
"""

import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from worker import child

ROUNDS, STEPS = 7, 150
TEXT_BYTES = 1 << 20


def measure() -> dict[str, Any]:
    """Ratios and seconds, medians over the rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        stack = subprocess.Popen(
            [Path(sys.executable).parent / "weightsmith", "up", "--port", "0", "--home", home],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            return rounds(home, client_of(home, stack), Path(folder))
        finally:
            stack.terminate()
            stack.wait(timeout=60)


def client_of(home: Path, stack: subprocess.Popen[str]) -> httpx.Client:
    """Wait until the stack says that it is ready."""
    assert stack.stdout is not None
    for line in stack.stdout:
        if line.startswith("Ready"):
            credentials = json.loads((home / "credentials.json").read_text())
            headers = {"Authorization": f"Bearer {credentials['api_key']}"}
            return httpx.Client(base_url=credentials["base_url"], headers=headers, timeout=60)
    sys.exit("the stack did not start")


def rounds(home: Path, client: httpx.Client, folder: Path) -> dict[str, Any]:
    text = "".join(
        path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    )
    upload = client.post(
        "/files", files={"file": ("text.txt", text[:TEXT_BYTES].encode())}, data={"purpose": "fine-tune"}
    )
    upload.raise_for_status()
    served, bare, to_queued, to_first_step = [], [], [], []
    for number in range(ROUNDS + 1):
        times = through_service(home, client, upload.json()["id"], seed=number, keep=folder / f"run-{number}")
        by_hand = alone(folder / f"run-{number}")
        if number == 0:
            to_queued.append(times["queued"])  # the others reuse its token dataset
            continue  # warm-up
        served.append(times["training"])
        bare.append(by_hand)
        to_first_step.append(times["first_step"])
    ratios = [a / b for a, b in zip(served, bare, strict=True)]
    return {
        "overhead over the bare loop, median": f"{100 * (statistics.median(ratios) - 1):+.1f} %",
        "overhead, all rounds": [f"{100 * (ratio - 1):+.1f} %" for ratio in ratios],
        "queued to first step, median s": round(statistics.median(to_first_step), 2),
        "POST to queued, 1 MB of text, s": round(to_queued[0], 2),
        "rounds": ROUNDS,
        "steps a round": STEPS,
    }


def through_service(home: Path, client: httpx.Client, file: str, *, seed: int, keep: Path) -> dict[str, float]:
    """Submit, watch the run directory, and keep a copy of what the trainer was given."""
    spec = {
        "kind": "train",
        "model": {"init": "random", "preset": "nano", "tokenizer": "bytes"},
        "data": {"train": [{"file": file}], "sequence_length": 256},
        "budget": {"steps": STEPS},
        "checkpoints": {"every": STEPS},
        "seed": seed,
        "batch": {"sequences": 8},
    }
    posted = time.monotonic()
    answer = client.post("/jobs", json=spec)
    answer.raise_for_status()
    job = answer.json()["id"]
    queued = 0.0
    while not queued:
        state = client.get(f"/jobs/{job}").json()["state"]
        queued = time.monotonic() if state != "validating" else 0.0
        time.sleep(0.01)
    run_dir = newest_training_run(home / "scratch" / job)
    keep.mkdir()
    for name in ("spec.json", "plan.json", "preparation.json", "inputs.json"):
        shutil.copy(run_dir / name, keep)
    first, last = watch(run_dir / "events.jsonl")
    while client.get(f"/jobs/{job}").json()["state"] != "succeeded":
        time.sleep(0.1)
    return {"queued": queued - posted, "first_step": first - queued, "training": last - first}


def newest_training_run(folder: Path) -> Path:
    """The attempt that trains (the first one validated)."""
    while True:
        found = [path for path in sorted(folder.glob("attempts/*")) if (path / "inputs.json").exists()]
        training = [path for path in found if (path / "plan.json").exists()]
        if training:
            return training[-1]
        time.sleep(0.005)


def alone(run_dir: Path) -> float:
    """The same run without any service beside it but the idle one."""
    plan = json.loads((run_dir / "plan.json").read_text())
    environment = child.environment(threads=plan["threads"])
    with (run_dir / "child.log").open("wb") as log:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "core.training.run", run_dir], stdout=log, stderr=log, env=environment
        )
        first, last = watch(run_dir / "events.jsonl")
        trainer.wait()
    return last - first


def watch(events: Path) -> tuple[float, float]:
    """When the first and the last step were reported."""
    offset, first, partial = 0, 0.0, b""
    while True:
        if events.exists():
            with events.open("rb") as file:
                file.seek(offset)
                new = file.read()
            offset += len(new)
            *lines, partial = (partial + new).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["kind"] == "step":
                    first = first or time.monotonic()
                    if event["step"] == STEPS:
                        return first, time.monotonic()
        time.sleep(0.005)
