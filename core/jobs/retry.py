"""What follows a failed attempt: another one, at once or later, or the end of the job. Pure."""

import random

from core.events import Failed

MAX_DEATHS_WITHOUT_PROGRESS = 3
MAX_BACKOFF_SECONDS = 360.0


def delay_seconds(no_progress_failures: int, *, base_seconds: float) -> float:
    """The first retry after progress is immediate; then the wait doubles, with jitter."""
    if not no_progress_failures:
        return 0.0
    ceiling = base_seconds * 2.0 ** (no_progress_failures - 1)
    return random.uniform(0.5, 1.0) * min(ceiling, MAX_BACKOFF_SECONDS)


def last_word(
    failure: Failed, *, no_progress_failures: int, attempts: int, max_attempts: int, step: int
) -> tuple[str, str] | None:
    """Code and message for a job that is given up; None when it deserves another attempt."""
    if not failure.retryable:
        return failure.code, failure.message
    if no_progress_failures >= MAX_DEATHS_WITHOUT_PROGRESS:
        where = f"at step {step}, in the batch of step {step + 1}" if step else "before the first step"
        return "poison", (
            f"Gave up after {no_progress_failures} attempts in a row without a new checkpoint; the last one ended "
            f"{where}: {failure.message}"
        )
    if attempts >= max_attempts:
        return "too_many_attempts", f"Gave up after {attempts} attempts; the last one: {failure.message}"
    return None


def worker_lost(owner: str) -> Failed:
    """What the reaper says of an attempt whose lease ran out."""
    return Failed(
        code="worker_lost",
        message=f"The worker {owner} fell silent.",
        hint="Look at that machine's log; the job goes on elsewhere.",
        retryable=True,
    )
