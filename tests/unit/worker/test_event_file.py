"""Event files, read back by TensorBoard itself."""

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.events import Evaluated, Saved, Started, Step
from core.settings import Settings
from tests.jobs import losses
from tests.unit.worker.conftest import Bench
from tests.unit.worker.test_supervisor import WHOLE_RUN
from worker import event_file
from worker.event_file import EventFile, folder_of_run


def started(step: int) -> Started:
    return Started(step=step, total_steps=10, parameters=1, device="cpu")


def stepped(step: int, loss: float) -> Step:
    return Step(
        step=step, loss=loss, learning_rate=1e-3, grad_norm=0.5, tokens=step * 100, tokens_per_second=99.0, seconds=1.0,
        metrics={"token_accuracy": 0.25},
    )  # fmt: skip


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(point.step, point.value) for point in accumulator.Scalars(name)] for name in names}


def test_what_was_reported_is_read_back_by_its_names_outside(tmp_path: Path) -> None:
    file = EventFile(tmp_path, fence=2)
    for event in (started(0), stepped(1, 4.5), stepped(300, 1e300)):
        file.add(event)
    file.add(Evaluated(step=300, metrics={"validation_loss": 2.0}))
    file.add(Saved(step=300, path="x", manifest_sha256="0", size_bytes=1))
    found = read(tmp_path)
    assert found["train_loss"] == [(1, 4.5), (300, math.inf)]
    assert found["validation_loss"] == [(300, 2.0)]
    assert found["learning_rate"][0] == (1, pytest.approx(1e-3))
    assert set(found) == {
        *("train_loss", "train_token_accuracy", "learning_rate", "grad_norm", "tokens_per_second", "validation_loss")
    }


def test_a_resumed_run_goes_on_in_the_same_curve(tmp_path: Path) -> None:
    first, second = EventFile(tmp_path, fence=2), EventFile(tmp_path, fence=3)
    first.add(started(0))
    for step in (1, 2, 3, 4):
        first.add(stepped(step, float(step)))
    second.add(started(2))  # from the checkpoint of step 2
    for step in (3, 4, 5):
        second.add(stepped(step, step * 10.0))
    assert read(tmp_path)["train_loss"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(event_file._log, "warning", lambda *words: said.append(words))
    (tmp_path / "taken").write_text("")
    file = EventFile(tmp_path / "taken", fence=1)
    for step in (1, 2, 3):
        file.add(stepped(step, 1.0))
    assert len(said) == 1


@pytest.mark.parametrize("name", [None, "a/../../b", "plays", "x/y"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str | None) -> None:
    folder = folder_of_run(tmp_path, name, "job_1")
    assert folder.parent == tmp_path
    assert folder.name.endswith("job_1")


@pytest.mark.parametrize("can_write", [True, False])
def test_a_run_is_copied_there_and_never_broken_by_it(settings: Settings, tmp_path: Path, can_write: bool) -> None:
    board = tmp_path / "board"
    if not can_write:
        board.write_text("")
    bench = Bench(settings.model_copy(update={"tensorboard_folder": board}))
    try:
        job = bench.do(*WHOLE_RUN, spec={"suffix": "a/b"})
        assert job.state == "succeeded"
        if can_write:
            found = dict(read(board / f"a-b-{job.id}")["train_loss"])
            assert found == pytest.approx(dict(losses(bench.database, job.id)))
    finally:
        bench.close()
