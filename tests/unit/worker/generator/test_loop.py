"""The computing thread and the streams: nothing is lost between them, and an engine that fails ends only its own."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from core.data.tokenizer import Tokenizer
from core.errors import CapacityExceeded
from core.generation.continuation import Continuation, Line, continuations
from core.generation_request import Done, Error, Token
from core.sampling_params import SamplingParams
from worker.generator import loop as loop_module
from worker.generator.loop import EngineLoop

TOKENIZER = Tokenizer.bytes()


def answers(num: int, *, max_tokens: int = 5) -> list[Continuation]:
    params = SamplingParams(max_tokens=max_tokens)
    return continuations([[65]] * num, params, TOKENIZER, context_length=2 * 10**9, vocab_size=300)


class CountingEngine:
    """Says A for each answer at each step. `fails_at`: raises from that step on."""

    def __init__(self, *, num_free: int = 100, fails_at: int = -1) -> None:
        self.num_free = num_free
        self.waiting: list[Continuation] = []
        self.running: list[Continuation] = []
        self.steps, self.fails_at = 0, fails_at

    def submit(self, given: list[Continuation]) -> None:
        self.running += given[: self.num_free]
        self.waiting += given[self.num_free :]
        self.num_free -= min(len(given), self.num_free)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def has_work(self) -> bool:
        return any(not answer.is_paused or answer.is_cancelled for answer in self.running)

    def step(self) -> list[tuple[Continuation, Line]]:
        self.steps += 1
        if 0 <= self.fails_at <= self.steps:
            raise RuntimeError("poisoned")
        self.running = [answer for answer in self.running if not answer.is_cancelled]
        lines: list[tuple[Continuation, Line]] = []
        for answer in [answer for answer in self.running if not answer.is_paused]:
            answer.tokens.append(65)
            lines.append((answer, Token(choice=answer.choice, text="A")))
            if len(answer.tokens) == answer.max_tokens:
                lines.append((answer, Done(choice=answer.choice, finish_reason="length")))
                self.running.remove(answer)
        return lines


@pytest.fixture
def poisoned() -> list[Any]:
    return []


@pytest.fixture
def loop(poisoned: list[Any]) -> Iterator[EngineLoop]:
    running = EngineLoop(max_waiting=4, on_poisoned=poisoned.append)
    running.start()
    yield running
    running.stop()


async def read(stream: Any) -> list[Any]:
    lines = []
    while some := await stream.next_lines():
        lines += some
    return lines


def test_every_line_arrives_and_usage_is_the_last(loop: EngineLoop) -> None:
    async def scenario() -> None:
        engine: Any = CountingEngine()
        streams = [loop.submit(engine, answers(3, max_tokens=50)) for _ in range(10)]
        for lines in await asyncio.gather(*map(read, streams)):
            assert [line.kind for line in lines].count("token") == 150
            assert lines[-1].kind == "usage"
            assert (lines[-1].prompt_tokens, lines[-1].completion_tokens) == (3, 150)
        assert loop.num_answers == 0
        assert loop.num_tokens == 1500

    asyncio.run(scenario())


def test_a_slow_reader_bounds_its_buffer_and_loses_nothing(loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "BUFFERED_LINES", 10)

    async def scenario() -> None:
        engine: Any = CountingEngine()
        stream = loop.submit(engine, answers(2, max_tokens=300))
        total, most = 0, 0
        while some := await stream.next_lines():
            most = max(most, len(some))
            total += sum(line.kind == "token" for line in some)
            await asyncio.sleep(0.0005)
        assert total == 600
        assert most <= 10 + 3  # one step may go over it

    asyncio.run(scenario())


def test_an_engine_that_fails_ends_its_own_requests_only(loop: EngineLoop, poisoned: list[Any]) -> None:
    async def scenario() -> None:
        good: Any = CountingEngine()
        bad: Any = CountingEngine(fails_at=3)
        streams = (
            loop.submit(bad, answers(2)),
            loop.submit(good, answers(1, max_tokens=500)),
            loop.submit(bad, answers(1)),
        )
        ended, fine, also = await asyncio.gather(*map(read, streams))
        assert ended[-1].kind == also[-1].kind == "error"
        assert ended[-1].code == "internal_error"
        assert fine[-1].kind == "usage"
        assert set(poisoned) == {bad}
        assert loop.num_answers == 0

    asyncio.run(scenario())


def test_cancelled_answers_are_forgotten(loop: EngineLoop) -> None:
    async def scenario() -> None:
        engine: Any = CountingEngine()
        stream = loop.submit(engine, answers(2, max_tokens=10**9))
        await stream.next_lines()
        stream.cancel()
        async with asyncio.timeout(5):
            while loop.num_answers or engine.running:
                await asyncio.sleep(0.001)

    asyncio.run(scenario())


def test_all_are_told_at_the_end(loop: EngineLoop) -> None:
    async def scenario() -> None:
        engine: Any = CountingEngine()
        streams = [loop.submit(engine, answers(1, max_tokens=10**9)) for _ in range(3)]
        reading = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(0.01)
        loop.end_all(Error(code="unavailable", message="over"))
        for lines in await asyncio.gather(*reading):
            assert lines[-1].kind == "error"

    asyncio.run(scenario())


def test_the_queue_is_bounded_by_those_without_a_slot(loop: EngineLoop) -> None:
    async def scenario() -> None:
        engine: Any = CountingEngine(num_free=3)
        streams = [loop.submit(engine, answers(1, max_tokens=10**9)) for _ in range(7)]  # 3 have a slot, 4 wait
        with pytest.raises(CapacityExceeded) as full:
            loop.submit(engine, answers(1))
        assert 1.0 <= full.value.retry_after_seconds <= 60.0
        for stream in streams:
            stream.cancel()

    asyncio.run(scenario())
