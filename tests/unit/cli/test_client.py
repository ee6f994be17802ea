"""Where credentials come from, how lists and streams are read."""

import io
import json
import os
import stat
from pathlib import Path

import pytest

from cli.client import Client
from cli.credentials import Credentials, find_credentials
from cli.problem import ExitCode, Problem
from tests.unit.cli.conftest import FakeService, Run, a_page

VARIABLES = (
    *("WEIGHTSMITH_BASE_URL", "WEIGHTSMITH_API_KEY", "WEIGHTSMITH_HOME", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    *("XDG_CONFIG_HOME", "HOME"),
)


@pytest.fixture
def nothing_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write_credentials(folder: Path, key: str = "from-file") -> None:
    folder.mkdir(parents=True)
    (folder / "credentials.json").write_text(json.dumps({"base_url": "http://127.0.0.1:8123/v1", "api_key": key}))


@pytest.mark.usefixtures("nothing_told")
def test_credentials_are_found_in_a_folder_above(tmp_path: Path) -> None:
    write_credentials(tmp_path / ".weightsmith")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = find_credentials(None, None, start=below)
    assert (found.base_url, found.api_key) == ("http://127.0.0.1:8123/v1", "from-file")


@pytest.mark.usefixtures("nothing_told")
def test_flag_beats_variable_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_credentials(tmp_path / ".weightsmith")
    monkeypatch.setenv("WEIGHTSMITH_API_KEY", "from-variable")
    assert find_credentials(None, None, start=tmp_path).api_key == "from-variable"
    assert find_credentials(None, "from-flag", start=tmp_path).api_key == "from-flag"
    assert find_credentials("http://elsewhere/v1/", None, start=tmp_path).base_url == "http://elsewhere/v1"


@pytest.mark.usefixtures("nothing_told")
def test_a_key_from_a_file_is_never_sent_to_another_address(tmp_path: Path) -> None:
    write_credentials(tmp_path / ".weightsmith")
    with pytest.raises(Problem) as raised:
        find_credentials("http://elsewhere/v1", None, start=tmp_path)
    assert raised.value.exit_code is ExitCode.NOT_SIGNED_IN


@pytest.mark.usefixtures("nothing_told")
def test_home_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_credentials(tmp_path / "elsewhere")
    monkeypatch.setenv("WEIGHTSMITH_HOME", str(tmp_path / "elsewhere"))
    assert find_credentials(None, None, start=tmp_path).api_key == "from-file"


@pytest.mark.usefixtures("nothing_told")
def test_no_key_anywhere_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="not signed in") as raised:
        find_credentials(None, None, start=tmp_path)
    assert "weightsmith up" in (raised.value.hint or "")


@pytest.mark.usefixtures("nothing_told")
def test_openais_key_is_taken_only_with_openais_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai")
    with pytest.raises(Problem):
        find_credentials(None, None, start=tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://10.0.0.5:8000/v1")
    found = find_credentials(None, None, start=tmp_path)
    assert (found.base_url, found.api_key) == ("http://10.0.0.5:8000/v1", "sk-for-openai")
    with pytest.raises(Problem):
        find_credentials("http://elsewhere/v1", None, start=tmp_path)


@pytest.mark.usefixtures("nothing_told")
def test_an_address_alone_takes_the_key_that_is_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_credentials(tmp_path / ".weightsmith")
    monkeypatch.setenv("WEIGHTSMITH_BASE_URL", "http://127.0.0.1:8123/v1/")
    assert find_credentials(None, None, start=tmp_path).api_key == "from-file"


@pytest.mark.usefixtures("nothing_told")
def test_login_is_the_last_place_and_config_says_who_won(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService, run: Run
) -> None:
    for name in VARIABLES[:2]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("ws_of_the_user\n"))
    service.says("GET /v1/models", a_page())
    assert run("login", service.base_url).code == ExitCode.DONE
    file = tmp_path / "config" / "weightsmith" / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert find_credentials(None, None).api_key == "ws_of_the_user"
    write_credentials(tmp_path / ".weightsmith")
    ran = run("config", "--json")
    assert [row["state"] for row in ran.json["data"]] == ["", "", "", "used", "there"]
    assert "ws_of_the_user" not in ran.out


@pytest.mark.usefixtures("nothing_told")
def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write_credentials(tmp_path / ".weightsmith")
    file = tmp_path / ".weightsmith" / "credentials.json"
    file.write_text("{")
    with pytest.raises(Problem, match=str(file)):
        find_credentials(None, None, start=tmp_path)


def client_of(service: FakeService) -> Client:
    return Client(Credentials(service.base_url, "ws_test", "test"))


def test_the_key_travels_as_bearer(service: FakeService) -> None:
    service.says("GET /v1/models", a_page())
    client_of(service).get("models")
    assert service.last("GET").headers["authorization"] == "Bearer ws_test"


def test_a_proxy_of_the_environment_is_not_asked(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
    service.says("GET /v1/models", a_page())
    assert client_of(service).get("models")["data"] == []


def test_pages_are_followed_by_cursor(service: FakeService) -> None:
    service.says("GET /v1/files", a_page({"id": "a"}, {"id": "b"}, has_more=True), a_page({"id": "c"}))
    assert [row["id"] for row in client_of(service).pages("files", filters={"purpose": "p"})] == ["a", "b", "c"]
    assert [asked.query.get("after") for asked in service.asked] == [None, "b"]
    assert {asked.query["purpose"] for asked in service.asked} == {"p"}


def test_pages_stop_at_the_limit(service: FakeService) -> None:
    service.says("GET /v1/files", a_page({"id": "a"}, {"id": "b"}, has_more=True))
    assert [row["id"] for row in client_of(service).pages("files", limit=2)] == ["a", "b"]
    assert len(service.asked) == 1


def test_a_path_from_the_root_is_below_the_server(service: FakeService) -> None:
    service.says("GET /healthz", {"status": "ok"})
    assert client_of(service).get("/healthz") == {"status": "ok"}


def test_events_end_at_done_and_errors_are_raised(service: FakeService) -> None:
    kind = {"content-type": "text/event-stream"}
    service.says("POST /v1/completions", (200, b'data: {"a": 1}\n\n: ping\n\ndata: [DONE]\n\ndata: {"a": 2}\n\n', kind))
    assert list(client_of(service).events("POST", "completions", json={})) == [{"a": 1}]
    service.says("POST /v1/completions", (200, b'data: {"error": {"message": "gone"}}\n\n', kind))
    with pytest.raises(Problem, match="gone"):
        list(client_of(service).events("POST", "completions", json={}))


def test_the_param_is_named_once() -> None:
    from cli.client import _problem

    problem = _problem({"error": {"message": "`a.b` is missing", "param": "a.b"}}, ExitCode.FAILED, "req_1")
    assert problem.message == "`a.b` is missing"
    problem = _problem({"error": {"message": "is missing", "param": "a.b"}}, ExitCode.FAILED, None)
    assert problem.message == "a.b: is missing"
