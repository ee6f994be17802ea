"""Every error that a user can cause has a status, and its answer says whether to try again."""

import json
from typing import Any

import pytest

import core.data.streams
import core.training.checkpoint  # noqa: F401 - errors of theirs count too
from api import errors
from core.errors import CapacityExceeded, Conflict, CoreError, InvalidRequest, NotFound, StorageFull, Unavailable


def subclasses(cls: type[CoreError]) -> set[type[CoreError]]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


def answer(error: CoreError) -> tuple[int, dict[str, str], Any]:
    response = errors.of_core_error(error)
    return response.status_code, dict(response.headers), json.loads(bytes(response.body))["error"]


@pytest.mark.parametrize("cls", sorted(subclasses(CoreError), key=lambda cls: cls.__name__))
def test_every_class_has_a_status(cls: type[CoreError]) -> None:
    status = errors.status_of(cls("x"))
    assert 400 <= status < 600
    assert status != 422


def test_the_hint_is_the_last_sentence() -> None:
    _, _, body = answer(InvalidRequest("It is wrong", hint="mend it", code="wrong", param="a.b"))
    assert body == {"message": "It is wrong. Mend it", "type": "invalid_request_error", "param": "a.b", "code": "wrong"}


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Conflict("x"), 409, {"x-should-retry": "false"}),
        (StorageFull("x"), 507, {"x-should-retry": "false"}),
        (CoreError("x"), 500, {"x-should-retry": "false"}),
        (CapacityExceeded("x", retry_after_seconds=0.25), 429, {"retry-after": "1", "retry-after-ms": "250"}),
        (Unavailable("x", retry_after_seconds=3), 503, {"retry-after": "3", "retry-after-ms": "3000"}),
    ],
)
def test_says_whether_to_try_again(error: CoreError, status: int, headers: dict[str, str]) -> None:
    found, sent, _ = answer(error)
    assert found == status
    assert {name: sent.get(name) for name in headers} == headers
    if "retry-after" in headers:
        assert "x-should-retry" not in sent


def test_half_a_surrogate_pair_in_a_message_is_replaced() -> None:
    assert answer(NotFound("no \ud800"))[2]["message"] == "no ?"
