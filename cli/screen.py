"""The whole terminal for jobs that are watched: a row for each, and of one of them curve, sample, events or log.

`frame` draws what is known and knows no terminal; `watch_on_screen` asks the service, listens to the keys and shows.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.curve import layers
from cli.keys_pressed import Keys
from cli.problem import ExitCode, Problem
from cli.session import Session, duration, printable
from cli.watch import (
    OVER,
    PATIENCE_SECONDS,
    SILENT,
    describe,
    figures,
    last_events,
    new_events,
    paused,
    stage,
    time_is_up,
)

MIN_COLUMNS, MIN_LINES = 80, 20
LOOK_SECONDS = 0.5
CURVE_SECONDS = 2.0
KEY_SECONDS = 0.2
BAR_COLUMNS = 8
CURVE_LINES = 9
KEPT_LINES = 200
MAX_POINTS = 400
KEYS_SHOWN = "p pause/resume   c cancel   l log   Tab next job   q leave"


class Left(KeyboardInterrupt):
    """The user went away with q: nothing is asked any more."""


@dataclass
class Watched:
    """What is known of one job."""

    id: str
    job: dict[str, Any] | None = None
    seen: int = 0
    events: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    sample: str = ""
    loss: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[float, float]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.job is not None and self.job["state"] in OVER

    def look(self, session: Session) -> None:
        """State and what happened since."""
        self.job = session.client.get(f"jobs/{self.id}")
        told = new_events(session, self.id, self.seen) if self.seen else iter(last_events(session, self.id))
        for event in told:
            self.seen = event["seq"]
            if event["kind"] == "sampled":
                self.sample = describe(event)
            elif event["kind"] not in SILENT:
                self.events.append(describe(event))

    def look_closely(self, session: Session, *, log: bool) -> None:
        """The curve, or the end of the log."""
        from cli.reports import series_of

        if log:
            self.log = printable(session.client.get(f"jobs/{self.id}/logs", tail=KEPT_LINES)["text"]).splitlines()
            return
        names = "train_loss,validation_loss"
        found = series_of(session.client.get(f"jobs/{self.id}/metrics", names=names, max_points=MAX_POINTS))
        self.loss, self.validation = found.get("train_loss", []), found.get("validation_loss", [])


def fits(session: Session) -> bool:
    """Whether there is a terminal that is large enough, with somebody at its keys."""
    import sys

    size = session.screen.size
    return session.lively and sys.stdin.isatty() and size.width >= MIN_COLUMNS and size.height >= MIN_LINES


def watch_on_screen(session: Session, ids: Sequence[str], *, timeout: float | None = None) -> list[dict[str, Any]]:
    """Show jobs until all are over, and return them.

    Raises:
        Problem: all that are left are paused and were so from the beginning, the time is up, or the server stays away.
        Left: the user did.
        KeyboardInterrupt: Ctrl-C.
    """
    view = View(session, [Watched(id) for id in ids])
    deadline = time.monotonic() + timeout if timeout else None
    with Keys() as keys, Live(console=session.screen, screen=True, auto_refresh=False) as live:
        while True:
            view.look()
            live.update(view.draw(session.screen), refresh=True)
            left = [one.job for one in view.jobs if one.job is not None and not one.over]
            if not left and all(one.over for one in view.jobs):
                return [one.job for one in view.jobs if one.job is not None]
            if not view.acted and left and all(job["state"] == "paused" for job in left):
                raise paused(left[0])
            if deadline is not None and time.monotonic() > deadline:
                raise time_is_up(left, timeout or 0.0)
            if key := keys.pressed(KEY_SECONDS):
                view.press(key)


class View:
    """Which job is looked at, and what was asked of it."""

    def __init__(self, session: Session, jobs: list[Watched]) -> None:
        self.session = session
        self.jobs = jobs
        self.chosen = 0
        self.log = False
        self.asking = False
        self.acted = False
        self.note = ""
        self._looked_at = self._curve_at = 0.0
        self._heard_at = time.monotonic()

    @property
    def current(self) -> Watched:
        return self.jobs[self.chosen]

    def look(self) -> None:
        """Ask the service for what is old. It may be away for a while."""
        now = time.monotonic()
        try:
            if now - self._looked_at >= LOOK_SECONDS:
                for one in self.jobs:
                    if not one.over:
                        one.look(self.session)
                self._looked_at = now
            if now - self._curve_at >= CURVE_SECONDS:
                self.current.look_closely(self.session, log=self.log)
                self._curve_at = now
        except Problem as problem:
            passing = problem.exit_code in (ExitCode.UNREACHABLE, ExitCode.NO_ROOM)
            if not passing or time.monotonic() - self._heard_at > PATIENCE_SECONDS:
                raise
            self.note = "the server does not answer; trying again"
            self._looked_at = now
            return
        if self.note.startswith("the server"):
            self.note = ""
        self._heard_at = now

    def press(self, key: str) -> None:
        """Do what a key means."""
        if self.asking:
            self.asking, self.note = False, ""
            if key == "y":
                self._ask_for("cancel")
            return
        if key == "q":
            raise Left
        if key in ("\t", "j", "down"):
            self._choose(self.chosen + 1)
        elif key in ("k", "up"):
            self._choose(self.chosen - 1)
        elif key == "l":
            self.log = not self.log
            self._curve_at = 0.0
        elif key == "c" and not self.current.over:
            self.asking, self.note = True, f"cancel {self.current.id} for good? y / n"
        elif key == "p" and self.current.job is not None:
            waiting = "paused" in (self.current.job["state"], f"{self.current.job.get('desired')}d")
            self._ask_for("resume" if waiting else "pause")

    def _choose(self, number: int) -> None:
        self.chosen = number % len(self.jobs)
        self._curve_at = 0.0

    def _ask_for(self, verb: str) -> None:
        self.acted = True
        try:
            self.current.job = self.session.client.post(f"jobs/{self.current.id}/{verb}")
            self.note = ""
        except Problem as problem:
            self.note = problem.message

    def draw(self, console: Console) -> Text:
        width, height = console.size
        utf8 = "utf" in (console.encoding or "").lower()
        return frame(
            self.jobs, self.chosen, width=width, height=height, log=self.log, note=self.note or KEYS_SHOWN, braille=utf8
        )


def frame(
    jobs: Sequence[Watched], chosen: int, *, width: int, height: int, log: bool, note: str, braille: bool
) -> Text:
    """The screen as one text of `height` lines."""
    shown = visible(len(jobs), chosen, max(1, height - 20))
    lines = [row(jobs[number], here=number == chosen and len(jobs) > 1) for number in shown]
    current = jobs[chosen]
    lines.append(Text(""))
    room = height - len(lines) - 1
    if log:
        lines += [Text(line, style="dim") for line in current.log[-room:] or ["the log is empty"]]
    else:
        lines += detail(current, width=width, room=room, braille=braille)
    lines = lines[: height - 1]
    lines += [Text("")] * (height - 1 - len(lines))
    lines.append(Text(note, style="reverse"))
    for line in lines:
        line.truncate(width - 1, overflow="ellipsis")
    return Text("\n").join(lines)


def visible(count: int, chosen: int, room: int) -> range:
    """Which rows are shown where there are more than fit."""
    first = min(max(0, chosen - room // 2), max(0, count - room))
    return range(first, min(count, first + room))


def row(one: Watched, *, here: bool) -> Text:
    """Mark, id, bar, share, stage, figures."""
    mark = "> " if here else "  "
    if one.job is None:
        return Text(f"{mark}{one.id}")
    fraction = 1.0 if one.job["state"] == "succeeded" else (one.job.get("progress") or {}).get("fraction") or 0.0
    full = round(fraction * BAR_COLUMNS)
    name = one.job["spec"].get("suffix") or one.job["kind"]
    text = Text(f"{mark}{one.id[:10]} {name[:10]:<10} ", style="bold" if here else "")
    text.append("━" * full, style=STYLES.get(one.job["state"], "cyan"))
    text.append("━" * (BAR_COLUMNS - full), style="dim")
    text.append(f" {100 * fraction:>3.0f}%  {stage(one.job):<10} ")
    text.append(figures(one.job), style="dim")
    return text


STYLES = {"succeeded": "green", "failed": "red", "cancelled": "red", "paused": "yellow", "stopping": "yellow"}


def band(job: dict[str, Any]) -> str:
    """How sure the time left is, where the service says so."""
    progress = job.get("progress") or {}
    low, high = progress.get("eta_low"), progress.get("eta_high")
    if job["state"] != "running" or low is None or high is None or round(low) == round(high):
        return ""
    return f" ({duration(low)} to {duration(high)})"


def detail(one: Watched, *, width: int, room: int, braille: bool) -> list[Text]:
    """Figures, curve, sample, and what happened, newest last."""
    job = one.job or {}
    lines: list[Text] = []
    if job:
        name = f"{one.id}  {job.get('model') or ''}".rstrip()
        lines = [Text(name, style="dim"), Text(f"{figures(job)}{band(job)}"), Text("")]
    if len(one.loss) > 1:
        for axis, cells in layers(one.loss, one.validation, width=width - 1, height=CURVE_LINES, braille=braille):
            line = Text(axis, style="dim")
            for character, bright in cells:
                line.append(character, style="bold cyan" if bright else "dim")
            lines.append(line)
        lines.append(Text(""))
    if one.sample:
        lines += wrapped(one.sample, width=width - 1, most=3)
        lines.append(Text(""))
    left = max(0, room - len(lines))
    return lines + [Text(event) for event in list(one.events)[-left:] if left]


def wrapped(text: str, *, width: int, most: int) -> list[Text]:
    """A long text on a few lines, in italics."""
    pieces = [text[start : start + width] for start in range(0, len(text), width)]
    return [Text(piece, style="italic") for piece in pieces[:most]]
