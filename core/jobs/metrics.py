"""Metric series: packed points with levels above them, so that a million points open in one read per series and a
one-step spike survives thinning.

Level 0 holds points (step, value). An entry of level n+1 sums up 16 entries of level n: first and last step, min, max,
first, last, sum, count. Entries are packed 1024 to a row. Each attempt (fence) writes series of its own; reading hides
what an older attempt wrote above the step from which a younger one resumed.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.jobs.tables import Attempt, MetricBlock

FAN = 16
PER_BLOCK = 1024
_POINT = struct.Struct("<qd")
_BUCKET = struct.Struct("<qqdddddq")


@dataclass(frozen=True)
class Bucket:
    """One or more neighbouring points."""

    first_step: int
    last_step: int
    min: float
    max: float
    first: float
    last: float
    sum: float
    count: int

    @classmethod
    def of_point(cls, step: int, value: float) -> "Bucket":
        return cls(step, step, value, value, value, value, value, 1)

    @classmethod
    def over(cls, parts: Sequence["Bucket"]) -> "Bucket":
        return cls(
            parts[0].first_step,
            parts[-1].last_step,
            min(p.min for p in parts),
            max(p.max for p in parts),
            parts[0].first,
            parts[-1].last,
            sum(p.sum for p in parts),
            sum(p.count for p in parts),
        )


def append(session: Session, job_id: str, fence: int, points: dict[str, list[tuple[int, float]]]) -> None:
    """Add points (steps ascending) to the series of one attempt, and the summaries that they complete."""
    tails = _tails(session, job_id, fence, points)
    for name, series in points.items():
        entries = [Bucket.of_point(step, value) for step, value in series]
        level = 0
        while entries:
            tail = tails.get((name, level))
            entries = _append_level(session, tail or _new_block(job_id, name, fence, level, 0), entries)
            level += 1


def _tails(session: Session, job_id: str, fence: int, names: Iterable[str]) -> dict[tuple[str, int], MetricBlock]:
    """The last row of each series and level."""
    last = (
        select(MetricBlock.name, MetricBlock.level, func.max(MetricBlock.block).label("block"))
        .where(MetricBlock.job_id == job_id, MetricBlock.fence == fence, MetricBlock.name.in_(list(names)))
        .group_by(MetricBlock.name, MetricBlock.level)
        .subquery()
    )
    rows = session.scalars(
        select(MetricBlock)
        .join(
            last,
            (MetricBlock.name == last.c.name)
            & (MetricBlock.level == last.c.level)
            & (MetricBlock.block == last.c.block),
        )
        .where(MetricBlock.job_id == job_id, MetricBlock.fence == fence)
    )
    return {(row.name, row.level): row for row in rows}


def _new_block(job_id: str, name: str, fence: int, level: int, block: int) -> MetricBlock:
    return MetricBlock(job_id=job_id, name=name, fence=fence, level=level, block=block, num_entries=0, entries=b"")


def _append_level(session: Session, block: MetricBlock, entries: list[Bucket]) -> list[Bucket]:
    """Append to one level; returns the entries of the level above that are now complete."""
    complete: list[Bucket] = []
    session.add(block)
    recent = _unpack(block)[block.num_entries - block.num_entries % FAN :]
    for entry in entries:
        if block.num_entries == PER_BLOCK:
            block = _new_block(block.job_id, block.name, block.fence, block.level, block.block + 1)
            session.add(block)
        block.entries += _pack(block.level, entry)
        block.num_entries += 1
        recent.append(entry)
        if len(recent) == FAN:
            complete.append(Bucket.over(recent))
            recent = []
    return complete


def read(session: Session, job_id: str, name: str, *, max_points: int = 1000, since_step: int = 0) -> list[Bucket]:
    """The visible series in at most about `max_points` buckets (twice that at seams between attempts), by step."""
    attempts = session.execute(
        select(Attempt.fence, Attempt.first_step)
        .where(Attempt.job_id == job_id, Attempt.stage == "running")
        .order_by(Attempt.fence)
    ).all()
    # Every younger attempt hides what lies above the step from which it went on.
    segments: list[tuple[int, int | None]] = []
    limit: int | None = None
    for fence, first_step in reversed(attempts):
        segments.append((fence, limit))
        limit = first_step if limit is None else min(limit, first_step)
    visible: list[Bucket] = []
    for fence, until in reversed(segments):
        visible.extend(_read_segment(session, job_id, name, fence, max_points, since_step, until))
    return visible


def names(session: Session, job_id: str) -> list[str]:
    """The series of a job."""
    query = select(MetricBlock.name).where(MetricBlock.job_id == job_id).distinct()
    return sorted(session.scalars(query))


def _read_segment(
    session: Session, job_id: str, name: str, fence: int, max_points: int, since_step: int, until: int | None
) -> Iterator[Bucket]:
    """One attempt's entries: whole buckets of the level that fits, then ever finer ones up to the end or to `until`."""
    query = (
        select(MetricBlock.level, func.sum(MetricBlock.num_entries))
        .where(MetricBlock.job_id == job_id, MetricBlock.name == name, MetricBlock.fence == fence)
        .group_by(MetricBlock.level)
    )
    sizes = {level: int(size) for level, size in session.execute(query)}
    if not sizes:
        return
    level = min((lv for lv, size in sizes.items() if size <= max_points), default=max(sizes))
    start = 0
    while level >= 0:
        for entry in _entries(session, job_id, name, fence, level, start):
            if until is not None and entry.last_step > until:
                break
            start += 1
            if entry.last_step >= since_step:
                yield entry
        start *= FAN
        level -= 1


def _entries(session: Session, job_id: str, name: str, fence: int, level: int, start: int) -> Iterator[Bucket]:
    rows = session.scalars(
        select(MetricBlock)
        .where(
            MetricBlock.job_id == job_id,
            MetricBlock.name == name,
            MetricBlock.fence == fence,
            MetricBlock.level == level,
            MetricBlock.block >= start // PER_BLOCK,
        )
        .order_by(MetricBlock.block)
    )
    for row in rows:
        skip = start - row.block * PER_BLOCK if row.block == start // PER_BLOCK else 0
        yield from _unpack(row)[skip:]


def _pack(level: int, entry: Bucket) -> bytes:
    if level == 0:
        return _POINT.pack(entry.first_step, entry.last)
    return _BUCKET.pack(
        entry.first_step,
        entry.last_step,
        entry.min,
        entry.max,
        entry.first,
        entry.last,
        entry.sum,
        entry.count,
    )


def _unpack(row: MetricBlock) -> list[Bucket]:
    if row.level == 0:
        return [Bucket.of_point(step, value) for step, value in _POINT.iter_unpack(row.entries)]
    return [Bucket(*fields) for fields in _BUCKET.iter_unpack(row.entries)]
