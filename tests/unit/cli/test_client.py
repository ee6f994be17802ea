"""Where credentials come from, how lists and streams are read."""

import json
import os
from pathlib import Path

import pytest

from cli.client import Client, Credentials, find_credentials
from cli.problem import ExitCode, Problem
from tests.unit.cli.conftest import FakeService, a_page

VARIABLES = ("WEIGHTSMITH_BASE_URL", "WEIGHTSMITH_API_KEY", "WEIGHTSMITH_HOME")


@pytest.fixture
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


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
