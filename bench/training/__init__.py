"""Our training core against Hugging Face's Trainer, with the same model, data, precision and optimizer.

Each side is a process that stays; they take turns (A B C A B C …), so that both meet the same machine. A ratio is the
median over the rounds of (our tokens per second / the best peer's in that round); tokens are those of the data, padding
excluded. MFU is against the bf16 matrix product that was measured on the same machine just before.

    python -m bench training            all works
    python -m bench training small      one
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.training.works import THREADS, WORKS, Work, lay_out, versions
from core.models.families import shape
from worker import child

ROUNDS = 5
SIZES = (1024, 2048)


def measure(*names: str) -> dict[str, Any]:
    """Ratios, memory and losses by work."""
    rate = matmul_rate()
    figures: dict[str, Any] = {"bf16 matrix product, GFLOP/s": round(rate / 1e9), "versions": versions()}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for work in [WORKS[name] for name in names or WORKS]:
            figures[work.name] = compare(work, Path(folder) / work.name, rate)
            print(work.name, json.dumps(figures[work.name], indent=1), flush=True)
    return figures


def matmul_rate() -> float:
    """FLOP/s of the best of two sizes, median of nine, in a process of its own."""
    code = (
        "import torch, time, statistics\n"
        "torch.set_num_threads(2)\n"
        f"for n in {SIZES}:\n"
        "    a = torch.randn(n, n, dtype=torch.bfloat16); b = a.clone(); times = []\n"
        "    for _ in range(12):\n"
        "        t = time.perf_counter(); a @ b; times.append(time.perf_counter() - t)\n"
        "    print(2 * n**3 / statistics.median(times[3:]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return max(map(float, out.split()))


def compare(work: Work, folder: Path, rate: float) -> dict[str, Any]:
    """All rounds of one work."""
    folder.mkdir()
    lay_out(work, folder, ROUNDS)
    sides = {name: Side(name, work, folder) for name in ("ours", *work.peers)}
    for side in sides.values():
        side.round(work.steps)  # warm-up
    for _ in range(ROUNDS):
        for side in sides.values():
            side.round(work.steps)
    for side in sides.values():
        side.process.kill()
    return summary(work, sides, rate)


class Side:
    """A process that takes steps when it is asked to."""

    def __init__(self, name: str, work: Work, folder: Path) -> None:
        self.name, self.rounds = name, list[dict[str, Any]]()
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        if name == "ours":  # as a supervisor starts it
            environment |= child.environment(threads=THREADS) | {"PYTHONPATH": os.getcwd()}
        with (folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.training.side", name, work.name, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.log = folder / f"{name}.log"

    def round(self, steps: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        begun = time.perf_counter()
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"seconds"'):
                self.rounds.append(json.loads(line) | {"wall": time.perf_counter() - begun})
                return
        sys.exit(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")

    @property
    def speeds(self) -> list[float]:
        return [taken["tokens"] / taken["seconds"] for taken in self.rounds[1:]]

    @property
    def losses(self) -> list[float]:
        return [loss for taken in self.rounds for loss in taken["losses"]]


def summary(work: Work, sides: dict[str, Side], rate: float) -> dict[str, Any]:
    ours, peers = sides["ours"], [sides[name] for name in work.peers]
    best = max(peers, key=lambda side: statistics.median(side.speeds))
    ratios = [mine / theirs for mine, theirs in zip(ours.speeds, best.speeds, strict=True)]
    tail = work.steps * 2
    return {
        "title": work.title,
        "tokens/s": {name: round(statistics.median(side.speeds)) for name, side in sides.items()},
        "best peer": best.name,
        "ratio, median": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "peak MB": {name: side.rounds[-1]["peak_mb"] for name, side in sides.items()},
        "memory ratio": round(ours.rounds[-1]["peak_mb"] / best.rounds[-1]["peak_mb"], 2),
        "MFU": {name: round(flops(work) * statistics.median(side.speeds) / rate, 3) for name, side in sides.items()},
        "warm-up s": {name: round(side.rounds[0]["wall"], 1) for name, side in sides.items()},
        "first loss": {name: round(side.losses[0], 4) for name, side in sides.items()},
        f"mean loss of the last {tail} steps": {
            name: round(statistics.mean(side.losses[-tail:]), 4) for name, side in sides.items()
        },
    }


def flops(work: Work) -> float:
    """Of forward and backward, per token: 6 for each weight of a matrix (4 where it is frozen), and attention."""
    config = shape(work.family, work.dimensions, vocab_size=work.vocab_size)
    embeddings = config.vocab_size * config.hidden_size
    blocks = config.num_parameters() - embeddings * (1 if config.tied_embeddings else 2)
    attention = 2 * 2 * config.num_layers * config.num_heads * config.head_dim * work.length
    return (4 if work.lora else 6) * (blocks + embeddings) + 3 * attention
