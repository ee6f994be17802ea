"""The plan: what is fixed before the first step."""

from typing import Any

import pytest

from core.job_spec import TrainSpec
from core.models.config import ModelConfig
from core.models.families.llama import PRESETS
from core.training.plan import Plan, Preparation, Slot, micro_batch, plan, total_steps

MODEL = ModelConfig.from_dimensions("llama", PRESETS["mini"], vocab_size=8192)
SLOT = Slot(device="cpu", device_name="cpu", threads=2, memory_bytes=8 << 30)


def spec(**fields: Any) -> TrainSpec:
    given = {
        "model": {"init": "random", "preset": "mini", "tokenizer": "bytes"},
        "data": {"train": [{"file": "file-1"}], "sequence_length": 256},
        "batch": {"sequences": 32},
    }
    return TrainSpec.model_validate(given | fields)


def preparation(**fields: Any) -> Preparation:
    given = {
        "train": ("t",), "validation": None, "num_rows": 100, "num_tokens": 25_000, "num_supervised_tokens": 25_000,
        "num_validation_rows": 0, "num_documents": 9, "unigram_entropy": 5.0, "bytes_per_token": 3.0,
    }  # fmt: skip
    return Preparation.model_validate(given | fields)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 1}, 4),  # 100 rows, 32 a step
        ({"epochs": 2}, 7),
        ({"epochs": 0.001}, 1),
        ({"tokens": 16_000}, 2),  # 250 tokens a row
        ({"tokens": 16_001}, 3),
        ({"seconds": 60}, None),
    ],
)
def test_every_budget_is_a_number_of_steps_or_of_seconds(budget: dict[str, float], steps: int | None) -> None:
    assert total_steps(spec(budget=budget), preparation()) == steps


def test_intervals_are_a_tenth_of_the_run_where_none_are_given() -> None:
    decided = plan(spec(budget={"steps": 500}), MODEL, preparation(num_validation_rows=3), SLOT)
    assert (decided.evaluate_every, decided.save_every) == (50, 50)
    decided = plan(spec(budget={"steps": 5}, checkpoints={"every": 2}), MODEL, preparation(), SLOT)
    assert (decided.evaluate_every, decided.save_every) == (None, 2)


def test_it_is_a_pure_function_that_survives_its_file() -> None:
    decided = plan(spec(), MODEL, preparation(), SLOT)
    assert decided == plan(spec(), MODEL, preparation(), SLOT)
    assert Plan.model_validate_json(decided.model_dump_json()) == decided


def on_gpu(*, memory_bytes: int, model: ModelConfig = MODEL, **fields: Any) -> int:
    return micro_batch(
        spec(**fields), model, Slot(device="cuda", device_name="x", threads=2, memory_bytes=memory_bytes)
    )


def test_the_micro_batch_grows_with_the_memory_up_to_the_batch() -> None:
    found = [on_gpu(memory_bytes=size << 20) for size in (1, 1600, 2000, 64000)]
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, 32)
    assert on_gpu(memory_bytes=64 << 30, batch={"sequences": 3}) == 3


def test_it_shrinks_with_whatever_takes_memory() -> None:
    memory = 2 << 30
    usual = on_gpu(memory_bytes=memory)
    longer = {"train": [{"file": "file-1"}], "sequence_length": 1024}
    assert 1 < on_gpu(memory_bytes=memory, data=longer) < usual
    assert 1 < on_gpu(memory_bytes=memory, precision="fp32") < usual
    larger = ModelConfig.from_dimensions("llama", PRESETS["small"], vocab_size=8192)
    assert on_gpu(memory_bytes=memory, model=larger) < usual


def test_two_lanes_and_a_second_model_take_memory_too() -> None:
    slot = Slot(device="cuda", device_name="x", threads=2, memory_bytes=2 << 30)
    one = micro_batch(spec(), MODEL, slot)
    pairs = spec(objective={"kind": "orpo"})
    assert micro_batch(pairs, MODEL, slot) == one // 2
    assert micro_batch(spec(), MODEL, slot, reference=MODEL) < one
    assert micro_batch(pairs, MODEL, SLOT) == 4, "as many tokens at once as with one lane"


GRADER = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{sample.output_text}}", "reference": "x"}


def test_a_model_that_writes_answers_computes_a_row_for_each_and_needs_room_to_write() -> None:
    roomy = Slot(device="cuda", device_name="x", threads=2, memory_bytes=64 << 30)
    explores = spec(objective={"kind": "grpo", "beta": 0.0, "grader": GRADER, "copies": 4})
    assert micro_batch(explores, MODEL, roomy) == 4 * 32
    tight = roomy.model_copy(update={"memory_bytes": 2 << 30})
    assert micro_batch(explores, MODEL, tight) < micro_batch(spec(), MODEL, tight)


def test_on_a_cpu_it_is_small_enough_for_the_caches() -> None:
    assert micro_batch(spec(), MODEL, SLOT) == 8
    long = spec(data={"train": [{"file": "file-1"}], "sequence_length": 4096})
    assert micro_batch(long, MODEL, SLOT) == 1


def test_a_limit_in_the_spec_comes_before_the_slot_s() -> None:
    limited = on_gpu(memory_bytes=64 << 30, resources={"memory_bytes": 2 << 30})
    assert limited == on_gpu(memory_bytes=2 << 30) < 32


@pytest.mark.parametrize(
    ("device", "length", "kind"), [("cpu", 512, "math"), ("cpu", 1024, "sdpa"), ("cuda", 64, "sdpa")]
)
def test_long_rows_on_a_cpu_take_the_fused_kernel(device: str, length: int, kind: str) -> None:
    slot = SLOT.model_copy(update={"device": device})
    decided = plan(spec(data={"train": [{"file": "f"}], "sequence_length": length}), MODEL, preparation(), slot)
    assert decided.attention == kind
