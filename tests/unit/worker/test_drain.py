"""The word to stop: the main process closes its end of a pipe, or dies, or somebody sends SIGTERM."""

import os
import signal
from collections.abc import Iterator

import pytest

from worker.place import Drain


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_the_end_of_the_pipe_is_the_word(pipe: tuple[int, int]) -> None:
    drain = Drain(pipe[0])
    assert not drain.requested()
    os.close(pipe[1])
    assert drain.requested()
    assert drain.requested(), "it is not taken back"


def test_sigterm_is_noted_while_there_is_work_and_obeyed_afterwards(pipe: tuple[int, int]) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    drain = Drain(pipe[0])
    with drain.on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        assert drain.requested()
        assert came == []
    assert came == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, before)
    os.close(pipe[1])
