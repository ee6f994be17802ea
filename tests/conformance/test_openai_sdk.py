"""What the `openai` package promises its users holds here: files, uploads, fine-tuning, models, errors, retries."""

import hashlib
import io
import json
import time
from pathlib import Path

import openai
import pytest

from tests.apis import CHAT
from tests.conformance.conftest import Recorder, Service


def test_a_files_life(client: openai.OpenAI) -> None:
    made = client.files.create(
        file=("chat.jsonl", io.BytesIO(CHAT)),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at == made.created_at + 3600
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(CHAT), "chat.jsonl", "fine-tune")
    assert client.files.wait_for_processing(made.id, poll_interval=0.01).status == "processed"
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == CHAT
    other = client.files.create(file=("a.bin", b"\x00\x01"), purpose="user_data")
    listed = [file.id for file in client.files.list(purpose="fine-tune", limit=1)]
    assert made.id in listed
    assert other.id not in listed
    gone = client.files.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
    with pytest.raises(openai.NotFoundError) as raised:
        client.files.retrieve(made.id)
    assert raised.value.code == "file_not_found"
    assert raised.value.request_id


def test_a_file_in_chunks(client: openai.OpenAI, tmp_path: Path) -> None:
    done = client.uploads.upload_file_chunked(
        file=CHAT,
        filename="chat.jsonl",
        bytes=len(CHAT),
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=300,
        md5=hashlib.md5(CHAT).hexdigest(),
    )
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == CHAT
    path = tmp_path / "chat.jsonl"
    path.write_bytes(CHAT)
    done = client.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="fine-tune")
    assert done.file is not None
    assert (done.file.filename, done.file.status) == ("chat.jsonl", "processed")


def test_parts_in_the_order_of_their_ids(client: openai.OpenAI) -> None:
    upload = client.uploads.create(
        bytes=len(CHAT), filename="chat.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    assert (upload.status, upload.expires_at) == ("pending", upload.created_at + 3600)
    tail = client.uploads.parts.create(upload.id, data=CHAT[100:])
    head = client.uploads.parts.create(upload.id, data=CHAT[:100])
    assert (head.object, head.upload_id) == ("upload.part", upload.id)
    with pytest.raises(openai.BadRequestError) as raised:
        client.uploads.complete(upload.id, part_ids=[tail.id, head.id], md5=hashlib.md5(CHAT).hexdigest())
    assert raised.value.code == "md5_mismatch"
    done = client.uploads.complete(upload.id, part_ids=[head.id, tail.id], md5=hashlib.md5(CHAT).hexdigest())
    assert done.file is not None
    assert client.files.content(done.file.id).read() == CHAT
    cancelled = client.uploads.create(bytes=5, filename="a", mime_type="text/plain", purpose="fine-tune")
    assert client.uploads.cancel(cancelled.id).status == "cancelled"


def test_models(client: openai.OpenAI, service: Service) -> None:
    assert service.base in [model.id for model in client.models.list()]
    by_alias = client.models.retrieve("base-model")
    assert (by_alias.id, by_alias.object, by_alias.owned_by) == (service.base, "model", "lab")
    assert by_alias.parameters > 0  # type: ignore[attr-defined] - what is ours comes as attributes
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("ft:base:org:suf/x:abc")
    assert raised.value.code == "model_not_found"
    assert "ft:base:org:suf/x:abc" in raised.value.message
    with pytest.raises(openai.ConflictError):
        client.with_options(max_retries=0).models.delete("base-model")


def test_the_same_idempotency_key(client: openai.OpenAI, recorder: Recorder, chat_file: str) -> None:
    headers = {"Idempotency-Key": chat_file}

    def create(seed: int) -> str:
        return client.fine_tuning.jobs.create(
            model="base-model", training_file=chat_file, seed=seed, extra_headers=headers
        ).id

    assert create(1) == create(1)
    recorder.requests.clear()
    with pytest.raises(openai.ConflictError) as raised:
        create(2)
    assert raised.value.code == "idempotency_conflict"
    assert len(recorder.requests) == 1, "the client was told not to try again"


def test_an_answer_that_is_lost_makes_no_second_job(
    client: openai.OpenAI, recorder: Recorder, chat_file: str, service: Service
) -> None:
    recorder.lost_answers = 1
    recorder.requests.clear()
    job = client.fine_tuning.jobs.create(model="base-model", training_file=chat_file, metadata={"lost": chat_file})
    assert [request.headers["x-stainless-retry-count"] for request in recorder.requests] == ["0", "1"]
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"lost": chat_file})] == [job.id]
    recorder.lost_answers = 1
    name = f"{chat_file}.jsonl"
    file = client.files.create(file=(name, CHAT), purpose="fine-tune")
    assert [one.id for one in client.files.list() if one.filename == name] == [file.id]


def test_lists_walk_their_pages(client: openai.OpenAI, chat_file: str) -> None:
    made = [
        client.fine_tuning.jobs.create(
            model="base-model", training_file=chat_file, seed=seed, metadata={"k": chat_file, "n": str(seed)}
        ).id
        for seed in range(3)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1, metadata={"k": chat_file})] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"k": chat_file, "n": "1"})] == [made[1]]
    plain = client.fine_tuning.jobs.create(model="base-model", training_file=chat_file).id
    without = [job.id for job in client.fine_tuning.jobs.list(limit=5, extra_query={"metadata": "null"})]
    assert plain in without
    assert not set(made) & set(without)
    for job_id in [*made, plain]:
        client.fine_tuning.jobs.cancel(job_id)


def test_errors_are_typed(client: openai.OpenAI, service: Service, chat_file: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(model="base-model", training_file=chat_file, suffix="x" * 65)
    assert (bad.value.param, bad.value.type) == ("suffix", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=chat_file)
    assert (bad.value.code, bad.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(
            model="base-model", training_file=chat_file, method={"type": "dpo", "dpo": {"hyperparameters": {}}}
        )
    assert (bad.value.code, bad.value.param) == ("format_mismatch", "training_file")
    with service.client(api_key="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.batches.list()
    assert missing.value.code == "unknown_route"
    with pytest.raises(openai.APIStatusError) as large:
        client.fine_tuning.jobs.create(model="base-model", training_file=chat_file, extra_body={"x": "y" * (5 << 20)})
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    for error in (bad, unknown, missing, large):
        assert (error.value.request_id or "").startswith("req_")


def test_a_job_without_a_worker_waits_and_can_be_cancelled(client: openai.OpenAI, chat_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="base-model", training_file=chat_file)
    assert job.status in ("validating_files", "queued", "running")
    assert job.object == "fine_tuning.job"
    assert job._request_id
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as raised:
        client.fine_tuning.jobs.cancel(job.id)
    assert (raised.value.code, raised.value.param) == ("job_not_cancellable", None)


def status_becomes(client: openai.OpenAI, job_id: str, *wanted: str) -> list[str]:
    """Every status on the way, without repetitions."""
    seen: list[str] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if not seen or seen[-1] != job.status:
            seen.append(job.status)
        if job.status in wanted:
            return seen
        assert job.status not in ("failed", "cancelled", "succeeded"), job
        time.sleep(0.02)
    raise TimeoutError(f"{job_id}: {seen}")


@pytest.mark.slow
def test_pause_resume_and_cancel_while_it_runs(client: openai.OpenAI, service: Service, chat_file: str) -> None:
    service.ensure_worker()
    job = client.fine_tuning.jobs.create(
        model="base-model",
        training_file=chat_file,
        hyperparameters={"n_epochs": 150, "batch_size": 1},
        suffix="long",
    )
    status_becomes(client, job.id, "running")
    service.stack.wait_for(
        lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data, what="a checkpoint while it runs"
    )
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert checkpoint.fine_tuned_model_checkpoint.endswith(f":ckpt-step-{checkpoint.step_number}")
    assert client.models.retrieve(checkpoint.fine_tuned_model_checkpoint).id == checkpoint.fine_tuned_model_checkpoint
    events = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=3)]  # while it writes more
    seqs = [int(event_id.rpartition("-")[2]) for event_id in events]
    assert seqs == list(range(seqs[0], 0, -1))

    assert client.fine_tuning.jobs.pause(job.id).status == "pausing"
    assert status_becomes(client, job.id, "paused")[-1] == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    status_becomes(client, job.id, "running")
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    service.stack.wait_for_state(job.id.replace("ftjob-", "job_"), "cancelled")


@pytest.mark.slow
def test_a_job_from_file_to_model(client: openai.OpenAI, service: Service, chat_file: str) -> None:
    service.ensure_worker()
    job = client.fine_tuning.jobs.create(
        model="base-model",
        training_file=chat_file,
        validation_file=chat_file,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 2, "learning_rate_multiplier": 2}},
        },
        suffix="help/er",
        seed=7,
    )
    status_becomes(client, job.id, "succeeded")
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:base-model:lab:help/er:")
    assert (done.seed, done.error) == (7, None)
    assert (done.trained_tokens or 0) > 0
    assert done.finished_at is not None
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert client.files.content(done.result_files[0]).text.startswith("step,train_loss,train_accuracy,valid_loss")
    events = list(client.fine_tuning.jobs.list_events(job.id))
    assert any(event.type == "metrics" and "train_loss" in event.data for event in events)  # type: ignore[operator]
    assert any("full_valid_loss" in (event.data or {}) for event in events)  # type: ignore[operator]
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoints
    assert checkpoints[0].fine_tuning_job_id == job.id
    assert client.models.delete(done.fine_tuned_model).deleted


@pytest.mark.slow
def test_preferences_in_openais_shape(client: openai.OpenAI, service: Service) -> None:
    service.ensure_worker()
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"{n} or {n + 1}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"{n + 1}"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for n in range(16)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("pairs.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="base-model",
        training_file=file.id,
        validation_file=file.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 2, "batch_size": 4}}},
    )
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert (job.method.dpo.hyperparameters.beta, job.method.dpo.hyperparameters.n_epochs) == (0.1, 2)
    status_becomes(client, job.id, "succeeded")
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model is not None
    assert (done.trained_tokens or 0) > 0
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    first = next(data for data in events[::-1] if "train_loss" in data)  # type: ignore[operator]
    assert first["train_loss"] == pytest.approx(0.6931, abs=1e-3), "the start is its own reference"  # type: ignore[index]
    assert any("full_valid_mean_reward_accuracy" in data for data in events)  # type: ignore[operator]
    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert checkpoint.metrics.train_loss is not None
