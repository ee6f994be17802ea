"""`python -m bench [NAME [ARGUMENTS]]`: run benchmarks and write their figures to `bench/results/{hardware}.json`.

python -m bench                          all that need nothing but this machine
python -m bench service                  one
python -m bench training small           one with its arguments: each says in its file which it takes
python -m bench learning --data FOLDER
"""

import importlib
import json
import platform
import sys
import time
from pathlib import Path

import psutil

NAMES = ("service", "api", "parity", "training")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what is named, print each result, keep the newest of each by hardware name."""
    names, arguments = sys.argv[1:2] or NAMES, sys.argv[2:]
    if not {*names} <= {*NAMES, "learning"} or "--help" in arguments:
        sys.exit(f"{__doc__}\nbenchmarks: {', '.join(NAMES)}, learning")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{hardware()}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        print(f"== {name}", flush=True)
        figures = importlib.import_module(f"bench.{name}").measure(*arguments)
        for key, value in figures.items():
            print(f"{key:44s} {value}", flush=True)
        kept = results.get(name, {}) if arguments else {}  # a part of the works leaves the others' figures
        results[name] = kept | figures | {"measured": time.strftime("%Y-%m-%d", time.gmtime())}
        file.write_text(json.dumps(results, indent=1) + "\n")
        if behind := [key for key, line in figures.items() if isinstance(line, dict) and line.get("learned") is False]:
            sys.exit(f"short of the margin: {'; '.join(behind)}")


def hardware() -> str:
    """The processor's model and its number of cores, as a file name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2] if lines else model
    words = "".join(c if c.isalnum() else " " for c in model.lower()).split()
    return "-".join([*words, f"{psutil.cpu_count()}-cores"])


if __name__ == "__main__":
    main()
