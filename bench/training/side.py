"""One side of the comparison, a process of its own: `python -m bench.training.side SIDE WORK FOLDER`.

A line "N" on standard input: take N steps, and answer with a line of JSON: seconds, tokens (padding excluded), the
losses, and the most memory that the process has ever held. SIDE is `ours`, `eager` or `compile`.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.training.works import WORKS


def main() -> None:
    side, work, folder = sys.argv[1], WORKS[sys.argv[2]], Path(sys.argv[3])
    if side == "ours":
        from bench.training.ours import steps
    else:
        from bench.training.peer import steps
    taken: Iterator[tuple[float, int]] = iter(steps(work, folder, side))
    for line in sys.stdin:
        begun, losses, tokens = time.perf_counter(), [], 0
        for _ in range(int(line)):
            loss, count = next(taken)
            losses.append(loss)
            tokens += count
        answer = {
            "seconds": time.perf_counter() - begun,
            "tokens": tokens,
            "losses": losses,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
