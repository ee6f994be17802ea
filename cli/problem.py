"""Why a command cannot do what it was asked, and the exit codes that scripts may rely on."""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What scripts may rely on; `weightsmith help exit-codes` explains them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    JOB_FAILED = 3
    NOT_SIGNED_IN = 4
    NOT_FOUND = 5
    WRONG_STATE = 6
    NO_ROOM = 7
    TIMED_OUT = 8
    UNREACHABLE = 9
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: ("done", "The command did it; a job that was followed succeeded."),
    ExitCode.FAILED: ("failed", "It failed here, or the service refused what was sent (400, 413, 500)."),
    ExitCode.USAGE: ("usage", "The command line is wrong, or needs --yes because nobody can be asked."),
    ExitCode.JOB_FAILED: ("the job failed", "A job that was followed failed or was cancelled."),
    ExitCode.NOT_SIGNED_IN: ("not signed in", "No key, a key that opens nothing, or one that may not (401, 403)."),
    ExitCode.NOT_FOUND: ("not found", "There is no such thing, or a reference fits several (404)."),
    ExitCode.WRONG_STATE: ("wrong state", "It is not in a state for this, or in use; a followed job is paused (409)."),
    ExitCode.NO_ROOM: ("no room", "A quota, a full queue or disk, a rate limit: worth another try (429, 503, 507)."),
    ExitCode.TIMED_OUT: ("timed out", "The time given with --timeout is up; the job goes on."),
    ExitCode.UNREACHABLE: ("no server", "Nothing answers at the address."),
    ExitCode.INTERRUPTED: ("interrupted", "Ctrl-C; a job that was followed goes on."),
}
"""In a word or three, and in a sentence."""

OF_STATUS = {
    401: ExitCode.NOT_SIGNED_IN,
    403: ExitCode.NOT_SIGNED_IN,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.WRONG_STATE,
    429: ExitCode.NO_ROOM,
    503: ExitCode.NO_ROOM,
    507: ExitCode.NO_ROOM,
}
"""Any other HTTP status that is no success means `FAILED`."""


class Problem(Exception):
    """Why a command cannot do what it was asked: what, why, and the next command."""

    def __init__(
        self,
        message: str,
        *,
        exit_code: ExitCode = ExitCode.FAILED,
        hint: str | None = None,
        request_id: str | None = None,
        envelope: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.request_id = request_id
        self.envelope = envelope or an_envelope(message, hint=hint)


def an_envelope(message: str, *, hint: str | None = None) -> dict[str, Any]:
    """The API's shape of an error, for one that arose here."""
    error = {"message": message, "type": "client_error", "param": None, "code": None}
    return {"error": error | ({"hint": hint} if hint else {})}
