"""The life of a job. The database row is the job; this table says which state may follow which, and who may write it.

    validating --> queued --> running --> succeeded
        |            |  ^        |  |
        |            |  +--------+  +---> failed
        |            v  |        v
        +--------> paused <-- stopping -> cancelled

`state` is what the system observed, `desired` what the user wants; they meet in the lease holder, which reads `desired`
every second. `phase` (loading, training, saving, …) is for people and decides nothing.
"""

from typing import Literal

JobState = Literal["validating", "queued", "running", "stopping", "paused", "succeeded", "failed", "cancelled"]
Desired = Literal["run", "pause", "cancel"]

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    "validating": frozenset({"queued", "failed", "paused", "cancelled"}),
    "queued": frozenset({"running", "paused", "cancelled", "failed"}),
    "running": frozenset({"succeeded", "failed", "queued", "stopping"}),
    "stopping": frozenset({"paused", "cancelled", "queued", "failed", "succeeded"}),
    # A job that was paused before its data was prepared goes back to validating.
    "paused": frozenset({"queued", "validating", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
TERMINAL: frozenset[JobState] = frozenset(state for state, after in TRANSITIONS.items() if not after)
LEASED: frozenset[JobState] = frozenset({"validating", "running", "stopping"})
