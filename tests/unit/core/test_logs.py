"""Log lines are JSON objects that no text can forge and no key gets into."""

import json
import logging
import sys

import pytest

from core.jobs.ids import new_key
from core.logs import JsonLines


def line(message: str, **extra: object) -> str:
    record = logging.LogRecord("api.access", logging.INFO, __file__, 1, message, (), None)
    vars(record).update(extra)
    return JsonLines().format(record)


def test_fields_are_kept() -> None:
    found = json.loads(line("GET / 200", status=200, project=None))
    assert found["message"] == "GET / 200"
    assert found["status"] == 200
    assert found["level"] == "info"
    assert "project" not in found


@pytest.mark.parametrize("place", ["message", "field", "inside"])
def test_keys_are_cut_out(place: str) -> None:
    key, lookup = new_key()
    texts = {
        "message": line(f"wrong key {key}"),
        "field": line("x", header=f"Bearer {key}"),
        "inside": line("x", url=f"http://h/?key={key}&a=b"),
    }
    assert key not in texts[place]
    assert key[12:] not in texts[place]
    assert lookup in texts[place]
    json.loads(texts[place])


def test_a_line_cannot_be_forged() -> None:
    assert "\n" not in line('x\n{"level": "error"}\x1b[31m')
    assert "\x1b" not in line("\x1b[31m")


def test_a_trace_is_one_field() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("api", logging.ERROR, __file__, 1, "m", (), sys.exc_info())
    assert "boom" in json.loads(JsonLines().format(record))["trace"]


def test_passwords_of_urls_are_cut_out() -> None:
    found = json.loads(line("cannot reach postgresql://weightsmith:se:cret@db:5432/x and redis://:other@q/0"))[
        "message"
    ]
    assert found == "cannot reach postgresql://weightsmith:…@db:5432/x and redis://:…@q/0"
