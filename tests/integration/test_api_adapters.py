"""Adapters over HTTP: what is refused at submit, what holds a base, what is downloaded and taken over."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.adapters.attach import attach_to
from core.adapters.peft_config import AdapterBase
from core.adapters.peft_directory import load_merged, save_adapter
from core.adapters.spec import LoRA
from core.data.tokenizer import Tokenizer
from core.jobs import registry
from core.jobs.tables import Checkpoint, Job, Model
from core.models.attention import packed_attention
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import load_model, save_weights
from core.training.checkpoint import verify
from tests.apis import TINY, Api, running_api, train
from tests.unit.core.adapters.conftest import fill

IDS_BT = torch.arange(40)[None]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def logits(model: Transformer) -> Tensor:
    segments_BT = torch.ones_like(IDS_BT)
    with torch.no_grad():
        attend = packed_attention(segments_BT, kind="math")
        return model.eval().logits(model(IDS_BT, torch.arange(40)[None], attend))


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an adapter beside it, as others would save them."""
    torch.manual_seed(1)
    folder, tokenizer = tmp_path_factory.mktemp("offered"), Tokenizer.bytes()
    (folder / "base").mkdir()
    (folder / "adapter").mkdir()
    model = Transformer(ModelConfig.from_dimensions("llama", Dimensions(**TINY), vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    save_weights(model, folder / "base")
    stops = sorted(tokenizer.stop_ids)
    write_model_config(
        folder / "base", model.config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops
    )
    tokenizer.save(folder / "base")
    spec, base = LoRA(rank=4, targets=["q_proj", "up_proj"]), AdapterBase(model="org/base", manifest_sha256="0")
    adapter = attach_to(model, spec, dtype=torch.float32, base=base)
    fill(adapter)
    save_adapter(adapter, folder / "adapter", model.config)
    (folder / "adapter" / "base.json").unlink()  # others know nothing of it
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, offered: Path) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("adapters")
    shutil.copy(migrated_sqlite, home / "w.db")
    with running_api(home, f"sqlite:///{home / 'w.db'}", import_folders=[offered]) as api:
        yield api


@pytest.fixture
def lab(running: Api) -> Api:
    return running.cleaned()


def take(api: Api, path: Path, **fields: Any) -> Any:
    answer = api.http.post("/v1/models/import", json={"path": str(path)} | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def refused(answer: Any, status: int = 400) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def lora(base: str, **adapter: Any) -> dict[str, Any]:
    return {"model": {"init": "pretrained", "from": base}, "adapter": {"kind": "lora"} | adapter}


def add_result(api: Api, job_id: str, like: str) -> str:
    """What a finished LoRA job leaves: a checkpoint, a model. Its bytes are those of the adapter `like`."""
    with api.database.transaction() as session:
        job, donor = session.get_one(Job, job_id), session.get_one(Model, like)
        row = Checkpoint(
            id=f"ckpt_{job_id}", job_id=job.id, project_id=job.project_id, fence=2, step=5,
            model_name=f"{job.model_name}:ckpt-step-5", metrics={}, best=True, storage_key=donor.storage_key,
            manifest_sha256=donor.manifest_sha256, size_bytes=1,
        )  # fmt: skip
        session.add(row)
        session.flush()
        registry.add_model(session, job, row, metrics={}, has_chat_template=True)
        job.state, job.lease_owner = "cancelled", None
        return str(job.model_name)


def test_a_lora_job_is_resolved_and_shown(lab: Api, offered: Path) -> None:
    base = take(lab, offered / "base")["id"]
    job = lab.submit(**lora(base, rank=8))
    assert job["spec"]["adapter"] == {
        "kind": "lora", "rank": 8, "alpha": 16.0, "scaling": "standard", "decomposed": False, "dropout": 0.0,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "quantization": "none", "double_quantization": True,
    }  # fmt: skip
    whole = lab.submit(model={"init": "pretrained", "from": base})
    rates = [j["spec"]["optimizer"]["learning_rate"] for j in (job, whole)]
    assert rates[0] == pytest.approx(10 * rates[1])
    assert job["model"].startswith("ft:base:lab::")


@pytest.mark.parametrize(
    ("adapter", "param", "code", "said"),
    [
        ({"targets": ["q_proj", "query"]}, "adapter.targets", "unknown_target", "q_proj, k_proj, v_proj, o_proj"),
        ({"targets": ["lm_head"]}, "adapter.targets", "unknown_target", "lm_head"),
        ({"targets": []}, "adapter.targets", "invalid_request", "at least 1"),
        ({"rank": 0}, "adapter.rank", "invalid_request", "greater than or equal to 1"),
        ({"rank": 2000}, "adapter.rank", "invalid_request", "less than or equal to 1024"),
        ({"rank": 33}, "adapter.rank", "rank_too_high", "at most 32"),
        ({"alpha": 0}, "adapter.alpha", "invalid_request", "greater than 0"),
        ({"dropout": 1}, "adapter.dropout", "invalid_request", "less than 1"),
        ({"scaling": "double"}, "adapter.scaling", "invalid_request", "rank_stabilized"),
        ({"quantization": "int3"}, "adapter.quantization", "invalid_request", "nf4"),
        ({"r": 8}, "adapter.r", "invalid_request", "Unknown field"),
        ({"kind": "ia3"}, "adapter.kind", "invalid_request", "lora"),
    ],
)
def test_what_cannot_work_is_refused_at_submit(
    lab: Api, offered: Path, adapter: dict[str, Any], param: str, code: str, said: str
) -> None:
    base = take(lab, offered / "base")["id"]
    body = train(lab.put()["id"], **lora(base, **adapter))
    error = refused(lab.http.post("/v1/jobs", json=body))
    assert (error["param"], error["code"]) == (param, code), error
    assert said in error["message"]


def test_random_weights_get_no_adapter(lab: Api) -> None:
    error = refused(lab.http.post("/v1/jobs", json=train(lab.put()["id"], adapter={"kind": "lora"})))
    assert (error["param"], error["code"]) == ("adapter.kind", "adapter_needs_a_model")


def test_an_adapter_that_others_made_is_taken_over(lab: Api, offered: Path) -> None:
    base = take(lab, offered / "base", name="org/base")
    model = take(lab, offered / "adapter", name="pet")  # its config names org/base, which is an alias here
    assert (model["base"], model["parent"]) == (base["id"], base["id"])
    assert (model["adapter"]["rank"], model["adapter"]["targets"]) == (4, ["q_proj", "up_proj"])
    assert model["id"].startswith("im:lab:pet:")
    assert model["has_chat_template"] is True
    assert model["bytes"] < base["bytes"] / 2, "the base is not copied"
    with lab.database.reading() as session:
        found = registry.resolve_model(session, lab.project_id(), "pet")
    verify(lab.storage.directory(found.storage_key), manifest_sha256=model["manifest_sha256"])
    assert found.uses == (model["id"], base["id"])
    error = refused(lab.http.post("/v1/models/import", json={"path": str(offered / "adapter"), "base": "pet"}))
    assert (error["code"], error["param"]) == ("not_a_whole_model", "base")


def test_an_adapter_whose_base_is_not_there(lab: Api, offered: Path) -> None:
    error = refused(lab.http.post("/v1/models/import", json={"path": str(offered / "adapter")}))
    assert (error["code"], error["param"]) == ("model_not_found", "base")
    assert "org/base" in error["message"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: edit(f, peft_type="IA3"), "IA3"),
        (lambda f: edit(f, r=5), "rank 5"),
        (lambda f: edit(f, use_dora=True), "lora_magnitude_vector"),
        (lambda f: edit(f, bias="all"), "bias"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x02pickle" * 9), "adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "not JSON"),
    ],
)
def test_what_is_no_adapter_of_the_base_is_refused(lab: Api, offered: Path, harm: Any, said: str) -> None:
    take(lab, offered / "base", name="org/base")
    broken = offered / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(offered / "adapter", broken)
    harm(broken)
    error = refused(lab.http.post("/v1/models/import", json={"path": str(broken)}))
    assert said in error["message"]
    assert error["param"] == "path"
    assert len(lab.http.get("/v1/models").json()["data"]) == 1


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def download(api: Api, model: str, to: Path, format: str) -> Path:
    answer = api.http.get(f"/v1/models/{model}/download", params={"format": format})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(to)
    return to


def test_both_downloads_give_the_same_logits(lab: Api, offered: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    take(lab, offered / "base", name="org/base")
    take(lab, offered / "adapter", name="pet")
    expected = logits(load_merged(offered / "base", offered / "adapter"))
    assert (expected - logits(load_model(offered / "base"))).abs().max() > 0.1
    merged = download(lab, "pet", tmp_path / "merged", "safetensors")
    torch.testing.assert_close(logits(load_model(merged)), expected, rtol=1e-5, atol=2e-5)
    whole = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(whole(IDS_BT).logits, expected, rtol=1e-5, atol=2e-5)
    own = download(lab, "pet", tmp_path / "own", "adapter")
    assert {path.name for path in own.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(offered / "base"), own)
    torch.testing.assert_close(beside(IDS_BT).logits, expected, rtol=1e-5, atol=2e-5)
    error = refused(lab.http.get("/v1/models/org/base/download", params={"format": "adapter"}))
    assert (error["code"], error["param"]) == ("not_an_adapter", "format")


def test_a_base_stays_as_long_as_something_stands_on_it(lab: Api, offered: Path) -> None:
    base = take(lab, offered / "base", name="org/base")["id"]
    pet = take(lab, offered / "adapter", name="pet")["id"]
    job = lab.submit(**lora(base, rank=4))
    made = add_result(lab, job["id"], pet)
    error = refused(lab.http.delete(f"/v1/models/{base}"), 409)
    assert error["code"] == "in_use"
    for name in (pet, made, f"{made}:ckpt-step-5"):
        assert name in error["message"]
    assert lab.http.delete(f"/v1/models/{pet}").status_code == 200
    assert pet not in refused(lab.http.delete(f"/v1/models/{base}"), 409)["message"]
    assert lab.http.delete(f"/v1/models/{made}").status_code == 200  # its checkpoints go with it
    assert lab.http.delete(f"/v1/models/{base}").status_code == 200


def test_going_on_with_an_adapter_holds_it_and_its_base(lab: Api, offered: Path) -> None:
    base = take(lab, offered / "base", name="org/base")["id"]
    pet = take(lab, offered / "adapter", name="pet")["id"]
    job = lab.submit(**lora("pet", dropout=0.1))
    assert job["spec"]["adapter"]["rank"] == 4
    assert job["spec"]["adapter"]["targets"] == ["q_proj", "up_proj"]
    assert job["spec"]["adapter"]["dropout"] == 0.1
    for name in (base, pet):
        assert job["id"] in refused(lab.http.delete(f"/v1/models/{name}"), 409)["message"]
    made = add_result(lab, job["id"], pet)
    assert lab.http.get(f"/v1/models/{made}").json()["base"] == base
    assert lab.http.get(f"/v1/models/{made}:ckpt-step-5").json()["adapter"]["rank"] == 4
    assert lab.http.delete(f"/v1/models/{pet}").status_code == 200, "the new adapter does not need the old one"
    for field, value in {"rank": 8, "alpha": 3.0, "targets": ["q_proj"], "decomposed": True}.items():
        body = train(lab.put()["id"], **lora(made, **{field: value}))
        error = refused(lab.http.post("/v1/jobs", json=body))
        assert (error["param"], error["code"]) == (f"adapter.{field}", "adapter_mismatch")
    same = lab.submit(**lora(made, rank=4, targets=["self_attn.q_proj", "mlp.up_proj"]))
    assert same["spec"]["adapter"]["targets"] == ["q_proj", "up_proj"]


def test_all_weights_are_trained_from_an_adapter(lab: Api, offered: Path) -> None:
    base = take(lab, offered / "base", name="org/base")["id"]
    pet = take(lab, offered / "adapter", name="pet")["id"]
    job = lab.submit(model={"init": "pretrained", "from": "pet"})
    for name in (base, pet):
        assert job["id"] in refused(lab.http.delete(f"/v1/models/{name}"), 409)["message"]
    with lab.database.reading() as session:
        assert session.get_one(Job, job["id"]).stands_on is None


def test_a_clone_of_a_job_that_went_on_is_the_same(lab: Api, offered: Path) -> None:
    take(lab, offered / "base", name="org/base")
    take(lab, offered / "adapter", name="pet")
    job = lab.submit(**lora("pet"))
    answer = lab.http.post(f"/v1/jobs/{job['id']}/clone")
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["adapter"] == job["spec"]["adapter"]
