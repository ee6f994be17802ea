"""The parts of `up` that need no process: lock, port, settings, keys."""

import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from cli.problem import ExitCode, Problem
from cli.stack import valkey_command
from cli.up import embedded, listen, locked, prepare_database, running_stack, runtime_folder
from core.settings import Settings


def test_two_on_one_folder_refuse_with_the_way_out(tmp_path: Path) -> None:
    with locked(tmp_path) as write:
        write({"pid": os.getpid(), "base_url": "http://127.0.0.1:8000/v1", "ready": True})
        assert (running_stack(tmp_path) or {})["base_url"] == "http://127.0.0.1:8000/v1"
        with pytest.raises(Problem, match="running already") as raised, locked(tmp_path):
            pass
        assert raised.value.exit_code is ExitCode.WRONG_STATE
        assert f"kill {os.getpid()}" in (raised.value.hint or "")
        assert "8000" in raised.value.message
    assert running_stack(tmp_path) is None
    with locked(tmp_path):
        pass


def test_what_a_killed_one_left_is_swept_and_what_lives_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path) if len(str(tmp_path)) < 60 else None)
    left = Path(tempfile.mkdtemp(prefix="weightsmith-"))
    (left / "lock").touch()
    with runtime_folder() as living, runtime_folder():
        assert not left.exists()
        assert living.exists()


def test_a_stack_whose_process_is_gone_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"pid": 999_999_999, "ready": True}))
    assert running_stack(tmp_path) is None


def test_a_port_that_was_asked_for_and_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = listen("127.0.0.1", other.getsockname()[1], print)
        with pytest.raises(Problem, match="cannot listen") as raised, taken:
            pass
    assert "--port" in (raised.value.hint or "")


def test_the_next_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("cli.up.PORT", taken)
        told: list[str] = []
        with listen("127.0.0.1", None, told.append) as listener:
            assert listener.getsockname()[1] != taken
    assert str(taken) in told[0]


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(Problem, match=r"192\.0\.2\.1"), listen("192.0.2.1", None, print):
        pass


def test_the_socket_folder_is_private_short_and_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with runtime_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(str(folder / "queue.sock")) < 100
    assert not folder.exists()


def test_settings_of_one_machine(tmp_path: Path) -> None:
    settings = embedded(Settings(), tmp_path, Path("/tmp/weightsmith-x"), "127.0.0.1")
    assert settings.redis_url == "redis+socket:///tmp/weightsmith-x/queue.sock"
    assert settings.lease_seconds == 10
    assert len(settings.generator_token) > 30
    assert settings.database_url == f"sqlite:///{tmp_path / 'weightsmith.db'}"
    assert settings.environment()["WEIGHTSMITH_GENERATOR_TOKEN"] == settings.generator_token


def test_what_the_environment_says_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = Settings(
        lease_seconds=30, redis_url="redis://r/0", database_url="sqlite:///x.db", import_folders=[Path("m")]
    )
    settings = embedded(told, tmp_path, Path("/tmp/weightsmith-x"), "127.0.0.1")
    assert (settings.lease_seconds, settings.redis_url) == (30, "redis://r/0")
    assert settings.database_url == f"sqlite:///{tmp_path / 'x.db'}"
    assert settings.import_folders == [tmp_path / "m"]


def test_an_open_host_is_answered_under_its_names(tmp_path: Path) -> None:
    settings = embedded(Settings(), tmp_path, Path("/tmp/weightsmith-x"), "0.0.0.0")
    assert socket.gethostname() in settings.allowed_hosts
    assert "127.0.0.1" in settings.allowed_hosts


def test_the_queue_listens_on_its_socket_alone(tmp_path: Path) -> None:
    settings = embedded(Settings(), tmp_path, Path("/tmp/weightsmith-x"), "127.0.0.1")
    words = valkey_command(settings)
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert (options["--port"], options["--unixsocketperm"], options["--appendonly"]) == ("0", "700", "yes")
    assert options["--maxmemory-policy"] == "noeviction"


def test_the_first_key_is_kept_and_a_lost_database_gets_a_new_one(tmp_path: Path, sqlite_url: str) -> None:
    settings = Settings(home=tmp_path, database_url=sqlite_url)
    file = tmp_path / "credentials.json"
    key = prepare_database(settings, "http://127.0.0.1:8000/v1")
    assert json.loads(file.read_text()) == {"base_url": "http://127.0.0.1:8000/v1", "api_key": key}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert prepare_database(settings, "http://127.0.0.1:9000/v1") == key
    assert json.loads(file.read_text())["base_url"] == "http://127.0.0.1:9000/v1"
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    assert prepare_database(settings, "http://127.0.0.1:9000/v1") != key


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "weightsmith.db").write_text("this is no database, and it is long enough to be looked at closely")
    with pytest.raises(Problem, match="database cannot be used"):
        prepare_database(Settings(home=tmp_path), "http://127.0.0.1:8000/v1")
