"""docker-compose.yml without its containers: every command in it as a process, on a real PostgreSQL and a real
Redis-protocol server, from an empty database to text out of a model that was trained there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.services import Postgres, Valkey, free_port, spawn, wait_until

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
TEXT = b"It was the best of times, it was the worst of times.\n" * 200


@dataclass
class Deployment:
    """The services of the cpu profile; each has the environment that the compose file gives it."""

    folder: Path
    values: dict[str, str]
    """of the variables in the compose file, and what differs without containers"""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        given = {name: self.filled(str(value)) for name, value in SERVICES[service].get("environment", {}).items()}
        return dict(os.environ) | {"WEIGHTSMITH_HOME": str(self.folder)} | given | self.values

    def filled(self, text: str) -> str:
        """`${NAME:-default}` and `${NAME:?message}` as docker compose fills them in."""
        return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: self.values.get(m[1], m[2] or ""), text)

    def command(self, service: str) -> list[str]:
        words = [self.filled(word) for word in SERVICES[service].get("command") or command_of_the_image("api")]
        words = [word.replace("0.0.0.0", "127.0.0.1").replace("8000", self.values["API_PORT"]) for word in words]
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]

    def start(self, service: str) -> None:
        log = self.folder / f"{service}.log"
        self.running[service] = spawn(self.command(service), log=log, env=self.environment(service), cwd=ROOT)

    def run(self, service: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words or self.command(service), env=self.environment(service), cwd=ROOT, capture_output=True, text=True
        )

    def is_healthy(self, service: str) -> bool:
        if self.running[service].poll() is not None:
            raise RuntimeError((self.folder / f"{service}.log").read_text())
        port = self.values["WEIGHTSMITH_GENERATOR_PORT"]
        test = [word.replace("8100", port) for word in SERVICES[service]["healthcheck"]["test"][1:]]
        return self.run(service, sys.executable, *test[1:]).returncode == 0


def command_of_the_image(target: str) -> list[str]:
    """CMD of a target in the Dockerfile."""
    stage = (ROOT / "Dockerfile").read_text().partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
    return re.findall(r'"([^"]+)"', stage.rpartition("\nCMD ")[2])


@pytest.fixture
def deployment(tmp_path: Path, postgres: Postgres, valkey: Valkey) -> Iterator[Deployment]:
    name = postgres.create_database()
    found = Deployment(
        tmp_path,
        {
            "DATABASE_URL": postgres.url(name),
            "REDIS_URL": valkey.url,
            "STORAGE_URL": f"file://{tmp_path / 'storage'}",
            "WEIGHTSMITH_GENERATOR_TOKEN": "a secret of the test",
            "WEIGHTSMITH_GENERATOR_HOST": "127.0.0.1",
            "WEIGHTSMITH_GENERATOR_PORT": str(free_port()),
            "API_PORT": str(free_port()),
        },
    )
    yield found
    for process in found.running.values():
        process.terminate()
    for process in found.running.values():
        process.wait(60)
    postgres.drop_database(name)


@pytest.mark.slow
def test_the_compose_file_deploys(deployment: Deployment) -> None:
    migrated = deployment.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    first = deployment.run("api", sys.executable, "-m", "core.jobs.first_key")
    assert first.returncode == 0, first.stderr
    again = deployment.run("api", sys.executable, "-m", "core.jobs.first_key")
    assert (again.returncode, again.stdout) == (1, "")
    assert "There is an admin key already" in again.stderr
    services = ("worker-light", "worker-train", "generator")
    for service in ("api", *services):
        deployment.start(service)
    base_url = f"http://127.0.0.1:{deployment.values['API_PORT']}"
    headers = {"authorization": f"Bearer {first.stdout.strip()}"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=60, trust_env=False) as client:
        wait_until(lambda: is_ready(client), what="the api is ready")
        for service in services:
            wait_until(lambda service=service: deployment.is_healthy(service), what=f"{service} is healthy", timeout=60)
        model = trained(client)
        text = client.post("/v1/completions", json={"model": model, "prompt": "It was", "max_tokens": 8}).json()
        assert text["choices"][0]["text"]
        kinds = {worker["kind"] for worker in client.get("/v1/workers").json()["data"]}
        assert {"light", "train", "generator"} <= kinds


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def trained(client: httpx.Client) -> str:
    """Name of a model that the deployment has trained."""
    file = client.post("/v1/files", files={"file": ("times.txt", TEXT)}, data={"purpose": "fine-tune"}).json()["id"]
    spec = {
        "kind": "train",
        "model": {
            "init": "random",
            "dimensions": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64},
            "tokenizer": "bytes",
        },
        "data": {"train": [{"file": file}]},
        "budget": {"steps": 3},
    }
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    url = f"/v1/jobs/{answer.json()['id']}"
    wait_until(lambda: client.get(url).json()["state"] in ("succeeded", "failed"), what="the job ends", timeout=120)
    job = client.get(url).json()
    assert job["state"] == "succeeded", job["error"]
    return str(job["result"]["model"])
