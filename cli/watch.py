"""Following a job until it is over: a bar on a terminal, plain lines in a pipe. Leaving costs the job nothing."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from cli.models import address
from cli.problem import ExitCode, Problem
from cli.session import Session, duration, printable

LOOK_SECONDS = 0.5
PLAIN_LINE_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
"""How long a server may be away before we give up."""
OVER = {"succeeded": ExitCode.DONE, "failed": ExitCode.JOB_FAILED, "cancelled": ExitCode.JOB_FAILED}
PAST_EVENTS = 5
SILENT = ("step", "started", "prepared")
"""Events that the bar already shows."""
STATES = {
    "validating": "reading the data",
    "queued": "waiting for a worker",
    "running": "training",
    "stopping": "saving",
}


class Display(Protocol):
    """What following needs of a screen."""

    def show(self, job: dict[str, Any]) -> None: ...
    def tell(self, text: str) -> None: ...


def follow(
    session: Session, job_id: str, *, timeout: float | None = None, show_events: bool = True, margin: str = ""
) -> dict[str, Any]:
    """Show a job's progress until it is over, and return it. Raises what `follow_all` does."""
    return follow_all(session, [job_id], timeout=timeout, show_events=show_events, margin=margin)[0]


def follow_all(
    session: Session,
    job_ids: Sequence[str],
    *,
    timeout: float | None = None,
    show_events: bool = True,
    margin: str = "",
) -> list[dict[str, Any]]:
    """Show the progress of jobs until all are over, and return them.

    Raises:
        Problem: all that are left are paused, the time is up, or the server stays away.
        KeyboardInterrupt: the user left; the jobs go on.
    """
    deadline = time.monotonic() + timeout if timeout else None
    jobs: dict[str, dict[str, Any]] = {}
    seen = dict.fromkeys(job_ids, 0)
    with ExitStack() as shown:
        displays = {
            job_id: shown.enter_context(display(session, margin=margin, name=job_id if len(job_ids) > 1 else ""))
            for job_id in job_ids
        }
        while True:
            for job_id in job_ids:
                if jobs.get(job_id, {}).get("state") in OVER:
                    continue
                jobs[job_id] = job = look(session, f"jobs/{job_id}")
                displays[job_id].show(job)
                if show_events:
                    seen[job_id] = tell_events(session, job_id, seen[job_id], displays[job_id])
            left = [job for job in jobs.values() if job["state"] not in OVER]
            if not left:
                return list(jobs.values())
            if all(job["state"] == "paused" for job in left):
                raise paused(left[0])
            if deadline is not None and time.monotonic() > deadline:
                raise time_is_up(left, timeout or 0.0)
            time.sleep(LOOK_SECONDS)


def tell_events(session: Session, job_id: str, seen: int, shown: Display) -> int:
    """Tell what is new; returns the number of the last event."""
    for event in new_events(session, job_id, seen) if seen else last_events(session, job_id):
        seen = event["seq"]
        if event["kind"] not in SILENT:
            shown.tell(describe(event))
    return seen


def paused(job: dict[str, Any]) -> Problem:
    """Nobody waits for a job that waits for somebody."""
    return Problem(
        f"{job['id']} is paused at step {job['progress'].get('step', 0)}",
        exit_code=ExitCode.WRONG_STATE,
        hint=f"go on with `weightsmith jobs resume {job['id']}`",
    )


def time_is_up(left: Sequence[dict[str, Any]], timeout: float) -> Problem:
    names = " ".join(job["id"] for job in left)
    return Problem(
        f"{names} {'is' if len(left) == 1 else 'are'} not over after {timeout:g} s; it goes on",
        exit_code=ExitCode.TIMED_OUT,
        hint=f"look again with `weightsmith jobs watch {names}`",
    )


def look(session: Session, path: str, **params: Any) -> Any:
    """GET, patiently: a server that is restarting is asked again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return session.client.get(path, **params)
        except Problem as problem:
            passing = problem.exit_code in (ExitCode.UNREACHABLE, ExitCode.NO_ROOM)
            if not passing or time.monotonic() > deadline:
                raise
        time.sleep(LOOK_SECONDS)


def new_events(session: Session, job_id: str, seen: int) -> Iterator[dict[str, Any]]:
    """Events behind `seen`, in order."""
    while True:
        page = look(session, f"jobs/{job_id}/events", after=seen or None, limit=100, order="asc")
        for event in page["data"]:
            seen = event["seq"]
            yield event
        if not page.get("has_more") or not page["data"]:
            return


def last_events(session: Session, job_id: str) -> list[dict[str, Any]]:
    """What happened lately, in order: whoever comes late need not read it all."""
    page = look(session, f"jobs/{job_id}/events", limit=PAST_EVENTS, order="desc")
    return list(reversed(page["data"]))


def describe(event: dict[str, Any]) -> str:
    """One event as one line; a sample with the text it is about."""
    data = event.get("data") or {}
    if event["kind"] == "sampled":
        text = " ".join(f"{data.get('prompt', '')}{data.get('text', '')}".split())
        return printable(f"{event['message']}: {text}")
    mark = {"warn": "warning: ", "error": "error: "}.get(event.get("level", "info"), "")
    return printable(f"{mark}{event['message']}")


def verdict(session: Session, job: dict[str, Any]) -> ExitCode:
    """Say how a job ended; the exit code of whoever followed it."""
    result = job.get("result") or {}
    if job["state"] == "succeeded":
        made = result.get("model") or result.get("tokenizer")
        session.say(f"{job['id']} succeeded" + (f": {made}" if made else ""))
        if result.get("model") and (command := trial(session, result["model"])):
            session.say(f"try it: {command}")
        return ExitCode.DONE
    error = job.get("error") or {}
    session.say(f"{job['id']} {job['state']}" + (f": {error['message']}" if error.get("message") else ""))
    if error.get("hint"):
        session.say(f"  {error['hint']}")
    if job["state"] == "failed":
        session.say(f"  its log: weightsmith jobs logs {job['id']}")
    return OVER[job["state"]]


def trial(session: Session, name: str) -> str | None:
    """The command by which a model shows what it has learned; None where nobody knows it any more."""
    try:
        model = session.client.get(address(name))
    except Problem:
        return None
    config, there = model["config"], model["endpoints"]
    if "/v1/completions" in there:
        text = "a text to translate" if config["kind"] == "encoder_decoder" else "Once upon a time"
        return f"weightsmith generate {name} '{text}'"
    if "/v1/embeddings" in there:
        return f"weightsmith embed {name} 'a text'"
    if config["head"] == "span":
        return f"weightsmith classify {name} --question 'Who?' 'a text'"
    text = "a [MASK] text" if config["head"] == "language_model" else "a text"
    return f"weightsmith classify {name} '{text}'"


def stage(job: dict[str, Any]) -> str:
    """What the job is doing now, in a word or three."""
    if job["state"] == "queued" and job.get("queue_position"):
        return f"waiting, {job['queue_position']} ahead" if job["queue_position"] > 1 else "waiting, next"
    if job["state"] in ("running", "validating") and job.get("phase"):
        return str(job["phase"])
    return STATES.get(job["state"], str(job["state"]))


def figures(job: dict[str, Any]) -> str:
    """Step, loss, speed and time left: those that are known."""
    progress = job.get("progress") or {}
    latest = job.get("metrics") or {}
    parts = []
    if progress.get("total_steps"):
        parts.append(f"step {progress.get('step', 0)}/{progress['total_steps']}")
    elif progress.get("step"):
        parts.append(f"step {progress['step']}")
    if latest.get("train_loss") is not None:
        parts.append(f"loss {latest['train_loss']:.3f}")
    if progress.get("tokens_per_second"):
        parts.append(f"{progress['tokens_per_second']:,.0f} tok/s")
    if progress.get("eta_seconds") is not None and job["state"] == "running":
        parts.append(f"{duration(progress['eta_seconds'])} left")
    return " · ".join(parts)


@contextmanager
def display(session: Session, *, margin: str = "", name: str = "") -> Iterator[Display]:
    """A bar where there is a terminal and one job, else lines; nothing with --quiet, one job a line with --json."""
    if session.lively and not name:
        with Bar(session, margin) as bar:
            yield bar
    else:
        yield Lines(session, margin + (f"{name}  " if name else ""))


class Lines:
    """A line when the stage changes, and one now and then."""

    def __init__(self, session: Session, margin: str) -> None:
        self._session = session
        self._margin = margin
        self._stage = ""
        self._spoke_at = 0.0

    def show(self, job: dict[str, Any]) -> None:
        now = time.monotonic()
        current = stage(job)
        over = job["state"] in OVER
        if self._session.json:
            if over or current != self._stage or now - self._spoke_at >= PLAIN_LINE_SECONDS:
                self._session.line(job)
                self._stage, self._spoke_at = current, now
            return
        numbers = figures(job)
        if current != self._stage or (numbers and now - self._spoke_at >= PLAIN_LINE_SECONDS):
            if not over:
                self._session.say(f"{self._margin}{current}  {numbers}".rstrip())
            self._stage, self._spoke_at = current, now

    def tell(self, text: str) -> None:
        if not self._session.json:
            self._session.say(self._margin + text)


class Bar:
    """One line that is drawn again and again, and lines that stay above it."""

    def __init__(self, session: Session, margin: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = session.screen
        self._margin = margin
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            console=session.screen,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=1.0, figures="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: dict[str, Any]) -> None:
        fraction = (job.get("progress") or {}).get("fraction") or 0.0
        known = fraction > 0 or job["state"] == "running"
        self._progress.update(
            self._task,
            description=f"{self._margin}{stage(job):<11}",
            completed=fraction,
            total=1.0 if known else None,
            figures=figures(job),
            refresh=True,
        )

    def tell(self, text: str) -> None:
        self._console.print(self._margin + text, overflow="ellipsis", no_wrap=True)
