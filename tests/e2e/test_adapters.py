"""An adapter from end to end, over REST with real workers: trained, called while it trains and when it is done,
downloaded in both forms, loaded by `peft`, trained on as a whole."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from core.jobs import keys, registry
from core.jobs.tables import Checkpoint
from tests.jobs import check_invariants, look
from tests.lab import DIMENSIONS, TEXT
from tests.services import Valkey, free_port, wait_until
from tests.stack import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
PROMPT = list(b"LINE 7 OF A TEXT THAT IS READ AGAIN, IN ")
"""as in the data of the adapter; the base has seen small letters only"""
LORA = {"kind": "lora", "rank": 4, "dropout": 0.1}


class Service:
    """A stack with a worker, an api and a generator, and a client of it."""

    def __init__(self, stack: Stack, http: httpx.Client) -> None:
        self.stack, self.http = stack, http

    def post(self, path: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def train(self, **fields: Any) -> Any:
        given = {"kind": "train", "batch": {"sequences": 4}, "checkpoints": {"every": 10, "keep": 2}}
        return self.post("jobs", given | {"evaluation": {"samples": 0}} | fields, 201)

    def put(self, text: str) -> Any:
        """`data` of a job that learns this text."""
        file = self.http.post("files", files={"file": ("t.txt", text.encode())}, data={"purpose": "fine-tune"})
        return {"train": [{"file": file.json()["id"]}]}

    def finished(self, job: Any) -> str:
        self.stack.wait_for_state(job["id"], "succeeded", timeout=120)
        check_invariants(self.stack.database, self.stack.storage, jobs=[job["id"]])
        return str(self.http.get(f"jobs/{job['id']}").json()["result"]["model"])

    def logprobs(self, model: str) -> torch.Tensor:
        """Of the prompt's tokens, as the generator serves the model."""
        body = {"model": model, "prompt": PROMPT, "echo": True, "max_tokens": 0, "logprobs": 0, "temperature": 0}
        choice = self.post("completions", body)["choices"][0]
        return torch.tensor(choice["logprobs"]["token_logprobs"][1:])

    def download(self, model: str, format: str, to: Path) -> Path:
        answer = self.http.get(f"models/{model}/download", params={"format": format})
        assert answer.status_code == 200, answer.text
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(to)
        return to


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str, valkey: Valkey) -> Iterator[Service]:
    with Stack(tmp_path, database_url=sqlite_url, redis_url=valkey.url, min_free_bytes=0) as stack:
        with stack.database.transaction() as session:
            key, _ = keys.create_key(session, keys.ensure_project(session, "lab"), name="t", scopes=["admin"])
        port = free_port()
        stack.start_api(port)
        stack.start_worker()
        stack.start_generator()
        headers, url = {"authorization": f"Bearer {key}"}, f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready, what="the api")
        with httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=60, trust_env=False) as http:
            yield Service(stack, http)


def log_probabilities(model: Any) -> torch.Tensor:
    """Of the prompt's tokens, by a model of `transformers` or `peft`."""
    ids_BT = torch.tensor([PROMPT])
    with torch.no_grad():
        logp_TV = model.eval()(ids_BT).logits[0, :-1].log_softmax(-1)
    found: torch.Tensor = logp_TV.gather(1, ids_BT[0, 1:, None])[:, 0]
    return found


def test_an_adapter_from_submit_to_peft(service: Service, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    random = {"init": "random", "dimensions": DIMENSIONS, "tokenizer": "bytes"}
    base = service.finished(service.train(model=random, data=service.put(TEXT), budget={"steps": 60}))
    data = service.put(TEXT.upper())
    before = service.logprobs(base)

    start = {"init": "pretrained", "from": base}
    job = service.train(model=start, adapter=LORA, data=data, budget={"steps": 3000}, suffix="pet", seed=3)
    service.stack.wait_for_step(job["id"], 25, timeout=90)
    early = f"{job['model']}:ckpt-step-{newest(service.stack, job['id'])}"
    assert look(service.stack.database, job["id"]).state == "running"
    assert not torch.equal(service.logprobs(early), before)
    service.post(f"jobs/{job['id']}/cancel", {})
    service.stack.wait_for_state(job["id"], "cancelled")

    job = service.train(model=start, adapter=LORA, data=data, budget={"steps": 40}, suffix="pet", seed=3)
    model = service.finished(job)
    assert model.startswith("ft:")
    assert ":lab:pet:" in model
    shown = service.http.get(f"models/{model}").json()
    assert (shown["base"], shown["parent"], shown["adapter"]["rank"]) == (base, base, 4)
    assert shown["bytes"] < service.http.get(f"models/{base}").json()["bytes"] / 2
    answered = service.logprobs(model)
    assert answered.mean() > before.mean() + 0.5, "it has learned something"

    whole = AutoModelForCausalLM.from_pretrained(service.download(base, "safetensors", tmp_path / "base"))
    beside = PeftModel.from_pretrained(whole, service.download(model, "adapter", tmp_path / "own"))
    torch.testing.assert_close(log_probabilities(beside), answered, rtol=1e-3, atol=1e-3)
    merged = AutoModelForCausalLM.from_pretrained(service.download(model, "safetensors", tmp_path / "merged"))
    torch.testing.assert_close(log_probabilities(merged), answered, rtol=1e-3, atol=1e-3)

    kept = service.http.delete(f"models/{base}")
    assert kept.status_code == 409
    assert model in kept.json()["error"]["message"]
    all_weights = service.finished(
        service.train(model={"init": "pretrained", "from": model}, data=data, budget={"steps": 5})
    )
    assert service.http.get(f"models/{all_weights}").json()["base"] is None
    torch.testing.assert_close(service.logprobs(all_weights), answered, rtol=0.1, atol=0.3)


def newest(stack: Stack, job_id: str) -> int:
    with stack.database.reading() as session:
        row = session.get_one(Checkpoint, look(stack.database, job_id).checkpoint_id)
        assert registry.resolve_model(session, row.project_id, row.model_name).base is not None
        return row.step
