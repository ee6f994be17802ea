"""How a child ended, when it could not say so itself. Pure, but for one look at the kernel's counters."""

import signal
from pathlib import Path

from core.events import Failed

SEE_LOG = "The job's log has its last words."


def of_exit(code: int, *, out_of_memory: bool) -> Failed:
    """The failure of a child that left no last word. `code` is negative for a signal; a shell says 128 + n."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number == signal.SIGKILL and out_of_memory:
        return Failed(
            code="host_oom",
            message="The machine ran out of memory, and the kernel killed the run.",
            hint="Give the run less to do at once (batch.sequences, data.sequence_length), or the machine more memory.",
            retryable=True,
        )
    if number:
        return Failed(code="crashed", message=f"The run was ended by {_name(number)}.", hint=SEE_LOG, retryable=True)
    return Failed(
        code="crashed", message=f"The run ended with exit code {code} and no last word.", hint=SEE_LOG, retryable=True
    )


def hung(seconds: float) -> Failed:
    return Failed(
        code="hung",
        message=f"The run reported nothing for {seconds:g} seconds and was killed.",
        hint="The job's log has a trace of where it stood.",
        retryable=True,
    )


def too_long(seconds: float) -> Failed:
    return Failed(
        code="max_runtime",
        message=f"The run has used up its resources.max_runtime_seconds of {seconds:g}.",
        hint="Its checkpoints stay: start a new job from the last one, or give more time.",
        param="resources.max_runtime_seconds",
    )


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
