"""Why a command cannot do what it was asked, and the exit codes that scripts may rely on."""

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What scripts may rely on; `weightsmith --help` lists them."""

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
        self.envelope = envelope or {"error": {"message": message, "type": "client_error", "param": None, "code": None}}
