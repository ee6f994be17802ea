"""The thread that computes. It steps every engine that has work and hands what is new to the streams of the requests;
it never waits for a reader. A request's stream is bounded: one whose reader is behind gets no more tokens until it has
caught up, and everybody else keeps their speed.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from core.errors import CapacityExceeded
from core.generation.continuation import Continuation, Line
from core.generation.encoder_decoder import EncoderDecoderEngine
from core.generation.engine import Engine
from core.generation_request import Error, Usage

_log = logging.getLogger(__name__)
AnyEngine = Engine | EncoderDecoderEngine
BUFFERED_LINES = 256
IDLE_SECONDS = 1.0
MEASURED_ENDS = 64
MAX_RETRY_AFTER_SECONDS = 60.0


class Stream:
    """The lines of one request, from the computing thread to the event loop that made this."""

    def __init__(self, answers: Sequence[Continuation], wake_engine: Callable[[], None]) -> None:
        self.answers = answers
        self.is_over = False
        """nothing more will be put"""
        self._unfinished = set(answers)
        self._wake_engine = wake_engine
        self._loop = asyncio.get_running_loop()
        self._lines: deque[Line | Usage] = deque()
        self._changed = asyncio.Event()

    async def next_lines(self) -> list[Line | Usage]:
        """All that came since the last call; empty when there will be no more."""
        while not self._lines and not self.is_over:
            self._changed.clear()
            if not self._lines and not self.is_over:
                await self._changed.wait()
            self._go_on()
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        self._go_on()
        return lines

    def cancel(self) -> None:
        """The reader is gone: free the slots at the next step. After the end this does nothing."""
        for answer in self.answers:
            answer.is_cancelled = True
        self._wake_engine()

    def _go_on(self) -> None:
        """The reader has caught up."""
        if any(answer.is_paused for answer in self.answers):
            for answer in self.answers:
                answer.is_paused = False
            self._wake_engine()

    # --- called by the computing thread ---

    def put(self, answer: Continuation, line: Line) -> None:
        if self.is_over:
            return
        self._lines.append(line)
        if line.kind != "token":
            self._unfinished.discard(answer)
        if not self._unfinished and line.kind == "done":
            self._lines.append(self._usage())
        self.is_over = line.kind == "error" or not self._unfinished
        if len(self._lines) >= BUFFERED_LINES:
            for other in self.answers:
                other.is_paused = True

    def tell(self) -> None:
        with suppress(RuntimeError):  # the event loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._changed.set)

    def _usage(self) -> Usage:
        prompts = {id(answer.prompt): len(answer.prompt.ids) for answer in self.answers}
        return Usage(
            prompt_tokens=sum(prompts.values()),
            completion_tokens=sum(len(answer.tokens) for answer in self.answers),
        )


class EngineLoop:
    """Owns the thread. `submit` is for the event loop's thread."""

    def __init__(self, *, max_waiting: int, on_poisoned: Callable[[AnyEngine], None]) -> None:
        self.max_waiting = max_waiting
        self.ticked_at = time.monotonic()
        self._on_poisoned = on_poisoned
        self._inbox: deque[tuple[AnyEngine, Stream]] = deque()
        self._streams: dict[AnyEngine, dict[Continuation, Stream]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._last_word: Error | None = None
        self._ends: deque[float] = deque(maxlen=MEASURED_ENDS)
        self.num_tokens = 0
        """sent since the start"""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    @property
    def num_answers(self) -> int:
        """Answers that are being computed or wait."""
        arriving = sum(len(stream.answers) for _, stream in list(self._inbox))
        return arriving + sum(len(streams) for streams in list(self._streams.values()))

    @property
    def num_waiting(self) -> int:
        """Answers for which there is no slot."""
        unseated = Counter({engine: engine.num_waiting for engine in list(self._streams)})
        for engine, stream in list(self._inbox):
            unseated[engine] += len(stream.answers)
        return sum(max(0, count - engine.num_free) for engine, count in unseated.items())

    def busy(self, waiting: int) -> CapacityExceeded:
        """Says how long the queue takes at the measured pace."""
        return CapacityExceeded(
            f"The generator is busy: {waiting} requests wait already. Try again later.",
            retry_after_seconds=self._seconds_to_drain(waiting),
        )

    def submit(self, engine: AnyEngine, answers: Sequence[Continuation]) -> Stream:
        """
        Raises:
            CapacityExceeded: the queue is full.
        """
        if (waiting := self.num_waiting) >= self.max_waiting:
            raise self.busy(waiting)
        stream = Stream(answers, self._wake.set)
        self._inbox.append((engine, stream))
        self._wake.set()
        return stream

    def end_all(self, error: Error) -> None:
        """Tell every request that it ends here."""
        self._last_word = error
        self._wake.set()

    def _seconds_to_drain(self, waiting: int) -> float:
        if len(self._ends) < 2:
            return 1.0
        rate = len(self._ends) / max(time.monotonic() - self._ends[0], 1e-3)
        return min(max(waiting / rate, 1.0), MAX_RETRY_AFTER_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._take_in()
            if self._last_word is not None:
                self._break_off(self._last_word)
            busy = [engine for engine in list(self._streams) if engine.has_work]
            for engine in busy:
                self._step(engine)
            self.ticked_at = time.monotonic()
            if not busy:
                self._wake.wait(IDLE_SECONDS)

    def _take_in(self) -> None:
        while self._inbox:
            engine, stream = self._inbox[0]
            self._streams.setdefault(engine, {}).update(dict.fromkeys(stream.answers, stream))
            engine.submit(stream.answers)
            self._inbox.popleft()

    def _step(self, engine: AnyEngine) -> None:
        streams = self._streams[engine]
        over = [answer for answer in streams if answer.is_cancelled]  # the step drops them; those flagged later wait
        try:
            lines = engine.step()
        except Exception:
            _log.exception("an engine failed; its requests end and its model is loaded anew")
            self._on_poisoned(engine)
            failed = Error(code="internal_error", message="The generator failed; send the request again.")
            lines = [(answer, failed) for answer in streams]
            for answer in streams:  # who has taken this engine already may still come with a request
                answer.is_cancelled = True
        touched: dict[Stream, None] = {}
        for answer, line in lines:
            stream = streams[answer]
            stream.put(answer, line)
            touched[stream] = None
            if line.kind == "token":
                self.num_tokens += 1
            else:
                over.append(answer)
                self._ends.append(time.monotonic())
        for answer in over:
            streams.pop(answer, None)
        if not streams:
            del self._streams[engine]
        for stream in touched:
            stream.tell()

    def _break_off(self, error: Error) -> None:
        for engine, streams in list(self._streams.items()):
            for answer, stream in streams.items():
                answer.is_cancelled = True
                stream.put(answer, error)
                stream.tell()
            self._step(engine)
