"""What the container files and the pins say, held against what the code knows."""

import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.jobs import workers
from core.jobs.database import Database
from core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", ["docker-compose.yml", ".env.example", "Dockerfile"])
def test_every_variable_is_a_setting(name: str) -> None:
    named = set(re.findall(r"\bWEIGHTSMITH_([A-Z_]+)", (ROOT / name).read_text()))
    assert named - {field.upper() for field in Settings.model_fields} == set()


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_starts_a_module_that_exists(service: str) -> None:
    for command in (SERVICES[service].get("command"), SERVICES[service].get("healthcheck", {}).get("test")):
        words = command if isinstance(command, list) else []
        for option in ("-m", "-A"):
            if option in words:
                assert find_spec(words[words.index(option) + 1]), words


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_is_watched_and_without_privileges(service: str) -> None:
    settings = SERVICES[service]
    assert "healthcheck" in settings or service == "api", "the api's stands in the Dockerfile"
    if service not in ("postgres", "redis"):
        assert settings["cap_drop"] == ["ALL"]
        assert settings["read_only"] is True


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_is_healthy_while_its_heartbeat_is_young(database_url: str) -> None:
    check = [sys.executable, *SERVICES["worker-train"]["healthcheck"]["test"][2:]]
    environment = os.environ | {"DATABASE_URL": database_url}
    assert subprocess.run(check, cwd=ROOT, env=environment).returncode == 1
    database = Database(database_url)
    with database.transaction() as session:
        workers.beat(session, "w", kind="train", host=socket.gethostname(), pid=1, version="0")
    database.close()
    assert subprocess.run(check, cwd=ROOT, env=environment).returncode == 0


def test_only_loopback_is_published() -> None:
    published = [port for settings in SERVICES.values() for port in settings.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_secret_has_a_default() -> None:
    for secret in re.findall(r"\$\{(\w*(?:PASSWORD|TOKEN))([^}]*)\}", (ROOT / "docker-compose.yml").read_text()):
        assert secret[1].startswith(":?"), secret


def test_each_profile_trains_and_generates() -> None:
    for profile in ("cpu", "gpu"):
        commands = [s["command"] for s in SERVICES.values() if s.get("profiles") == [profile]]
        assert any("train" in command for command in commands)
        assert any("worker.generator" in command for command in commands)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    ours = {"weightsmith"}  # an extra may name another one
    assert {normal(requirement) for requirement in asked} - {normal(pin) for pin in pinned} - ours == set()


def normal(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()
