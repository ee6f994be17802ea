"""Errors a user can cause or must act on, grouped by what the caller should do next.

`code` is stable and documented; `param` names the field or file at fault; `hint` is the way out. No HTTP here:
`api/errors.py` maps the classes to status codes, and a trainer reports them as its `Failed` event.
"""


class CoreError(Exception):
    """An error with a stable code. `retryable` is read by the retry policy and by nothing else."""

    retryable = False
    default_code = "internal_error"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive a process boundary by themselves.
        return (_rebuild, (type(self), self.message, self.code, self.param, self.hint))


def _rebuild(kind: type[CoreError], message: str, code: str, param: str | None, hint: str | None) -> CoreError:
    return kind(message, code=code, param=param, hint=hint)


class InvalidRequest(CoreError):
    """Fix the request and send it again."""

    default_code = "invalid_request"


class InvalidData(CoreError):
    """Fix the file: `line_errors` names every bad line (1-based), capped by whoever collected them."""

    default_code = "invalid_data"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        line_errors: list[tuple[int, str]] | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, hint=hint)
        self.line_errors = line_errors or []


class Unauthenticated(CoreError):
    """Send a valid key."""

    default_code = "invalid_api_key"


class Forbidden(CoreError):
    """Use a key that has the scope."""

    default_code = "missing_scope"


class NotFound(CoreError):
    """No such thing in this project."""

    default_code = "not_found"


class Conflict(CoreError):
    """The state forbids it: look again before trying anything else."""

    default_code = "conflict"


class TooLarge(CoreError):
    """Send less."""

    default_code = "too_large"


class CapacityExceeded(CoreError):
    """Nothing is wrong with the request: send it again after `retry_after_seconds`."""

    retryable = True
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(CapacityExceeded):
    """Something this needs (database, generator) is not there now."""

    default_code = "unavailable"


class StorageFull(CoreError):
    """Free some space. Retried a few times, because space is often freed by others."""

    retryable = True
    default_code = "storage_full"


class Diverged(CoreError):
    """The loss stopped being a number: change the hyperparameters."""

    default_code = "nonfinite_loss"


class LeaseLost(CoreError):
    """Another attempt holds this job now: kill the trainer, write nothing."""

    default_code = "lease_lost"
