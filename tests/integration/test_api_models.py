"""Models over HTTP: imported, named, downloaded, deleted; tokenizers, workers and figures beside them."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.jobs import models, registry, workers
from core.jobs.tables import Checkpoint, Job, TokenizerRow
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import load_model, save_weights
from core.training.checkpoint import verify
from tests.apis import TINY, Api, running_api


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as `transformers` would save it."""
    torch.manual_seed(1)
    folder, tokenizer = tmp_path_factory.mktemp("hub") / "tiny-model", Tokenizer.bytes()
    folder.mkdir()
    config = ModelConfig.from_dimensions("llama", Dimensions(**TINY), vocab_size=tokenizer.vocab_size)
    save_weights(Transformer(config), folder)
    stops = sorted(tokenizer.stop_ids)
    write_model_config(folder, config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def importing(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("importing")
    shutil.copy(migrated_sqlite, home / "w.db")
    (home / "allowed").mkdir()
    with running_api(home, f"sqlite:///{home / 'w.db'}", import_folders=[home / "allowed"]) as running:
        yield running


@pytest.fixture
def imports(importing: Api) -> Api:
    return importing.cleaned()


def offer(api: Api, directory: Path, name: str = "tiny-model") -> Path:
    """A copy in the folder from which may be imported."""
    target: Path = api.settings.import_folders[0] / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(directory, target)
    return target


def take(api: Api, path: Path, **fields: Any) -> Any:
    answer = api.http.post("/v1/models/import", json={"path": str(path)} | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_imported_model_is_whole(imports: Api, directory: Path) -> None:
    source = offer(imports, directory)
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    model = take(imports, source, name="org/pet")
    assert model["id"].startswith("im:lab:org-pet:")
    assert model["aliases"] == ["org/pet"]
    assert model["has_chat_template"] is True
    assert model["family"] == "llama"
    assert model["parameters"] == ModelConfig.model_validate(model["config"]).num_parameters()
    with imports.database.reading() as session:
        found = registry.resolve_model(session, imports.project_id(), "org/pet")
    place = imports.storage.directory(found.storage_key)
    verify(place, manifest_sha256=model["manifest_sha256"])
    names = {path.name for path in (place / "model").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not names & {"modeling_evil.py", "pytorch_model.bin"}
    expected, loaded = load_model(directory), load_model(place / "model")
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), loaded.parameters(), strict=True))
    source.joinpath("config.json").write_text("{}")  # changed later: the model is not
    verify(place, manifest_sha256=model["manifest_sha256"])


def test_a_fine_tuning_starts_from_an_imported_model(imports: Api, directory: Path) -> None:
    model = take(imports, offer(imports, directory, "My Model.v1"))
    job = imports.submit(model={"init": "pretrained", "from": model["id"]}, suffix="s")
    assert job["model"].startswith("ft:my-model.v1:lab:s:")
    assert error_of(imports.http.delete(f"/v1/models/{model['id']}"), 409)["code"] == "in_use"


def break_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: break_config(f, architectures=["EvilForCausalLM"]), "EvilForCausalLM"),
        (lambda f: break_config(f, vocab_size=300), "327"),
        (lambda f: break_config(f, vocab_size=400), "shape"),
        (lambda f: break_config(f, num_hidden_layers=7), "layers"),
        (lambda f: break_config(f, hidden_act="gelu"), "gelu"),
        (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "cut off"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x02pickle" * 9), "no safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b"{nothing}"), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 16), "no safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), "tokenizer"),
    ],
)
def test_what_is_no_model_is_refused(imports: Api, directory: Path, harm: Any, words: str) -> None:
    source = offer(imports, directory)
    harm(source)
    error = error_of(imports.http.post("/v1/models/import", json={"path": str(source)}), 400)
    assert words in error["message"]
    assert error["param"] == "path"
    assert imports.http.get("/v1/models").json()["data"] == []
    scratch = imports.settings.scratch_dir / "imports"
    assert not scratch.exists() or list(scratch.iterdir()) == []


def test_shards_that_point_outside(imports: Api, directory: Path) -> None:
    source = offer(imports, directory)
    (source / "model.safetensors").rename(source.parent / "outside.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "../outside.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    error = error_of(imports.http.post("/v1/models/import", json={"path": str(source)}), 400)
    assert "outside.safetensors" in error["message"]


def test_where_may_be_imported_from(imports: Api, directory: Path) -> None:
    allowed = imports.settings.import_folders[0]
    for path in (str(directory), f"{allowed}/../w.db", "/etc"):
        assert error_of(imports.http.post("/v1/models/import", json={"path": path}), 403)["code"] == (
            "import_not_allowed"
        )
    (allowed / "file").write_text("x")
    error = error_of(imports.http.post("/v1/models/import", json={"path": f"{allowed}/file"}), 400)
    assert error["code"] == "not_a_directory"


def test_a_model_is_downloaded_as_one_zip(imports: Api, directory: Path) -> None:
    model = take(imports, offer(imports, directory), name="pet")
    answer = imports.http.get("/v1/models/pet/download?format=safetensors")
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    name = model["id"].replace(":", "-")
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.read("model.safetensors") == (directory / "model.safetensors").read_bytes()
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert error_of(imports.http.get("/v1/models/pet/download?format=exe"), 400)["param"] == "format"
    assert error_of(imports.http.get("/v1/models/pet/download?format=gguf"), 503)["code"] == "no_generator"


def test_aliases(imports: Api, directory: Path) -> None:
    first, second = (take(imports, offer(imports, directory, f"m{i}"))["id"] for i in range(2))
    for alias in ("gpt-4o-mini", "meta/llama:8b", "a"):
        made = imports.http.put(f"/v1/models/{alias.replace('/', '%2F')}/alias", json={"model": first}).json()
        assert (made["id"], made["alias"], made["model"]) == (alias, alias, first)
        assert imports.http.get(f"/v1/models/{alias}").json()["id"] == first
    assert imports.http.put("/v1/models/a/alias", json={"model": second}).json()["model"] == second
    assert [row["alias"] for row in imports.http.get("/v1/aliases").json()["data"]] == [
        "a",
        "gpt-4o-mini",
        "meta/llama:8b",
    ]
    assert imports.http.get("/v1/models/a/alias").json()["model"] == second
    assert error_of(imports.http.delete("/v1/models/a"), 409)["code"] == "is_alias"
    assert imports.http.delete("/v1/models/a/alias").json() == {"id": "a", "object": "alias", "deleted": True}
    error = error_of(imports.http.get("/v1/models/a"), 404)
    assert error["code"] == "model_not_found"
    assert "weightsmith models alias a MODEL" in error["message"]
    assert error_of(imports.http.put(f"/v1/models/{first}/alias", json={"model": second}), 409)["code"] == (
        "alias_is_a_model"
    )
    for wrong in ("x/download", "-x", "x%20y", "x" * 129):
        answer = imports.http.put(f"/v1/models/{wrong}/alias", json={"model": first})
        assert error_of(answer, 400)["param"] == "alias"
    taken = {"path": str(imports.settings.import_folders[0] / "m0"), "name": "gpt-4o-mini"}
    assert error_of(imports.http.post("/v1/models/import", json=taken), 409)["code"] == "alias_taken"
    shown = imports.http.get("/v1/models").json()["data"]
    assert {model["id"]: model["aliases"] for model in shown} == {second: [], first: ["gpt-4o-mini", "meta/llama:8b"]}


def test_deleting_a_model(imports: Api, directory: Path) -> None:
    model = take(imports, offer(imports, directory), name="pet")
    assert imports.http.delete(f"/v1/models/{model['id']}").json() == {
        "id": model["id"],
        "object": "model",
        "deleted": True,
    }
    for name in (model["id"], "pet"):
        assert imports.http.get(f"/v1/models/{name}").status_code == 404
    assert imports.http.get("/v1/aliases").json()["data"] == []
    assert error_of(imports.http.delete(f"/v1/models/{model['id']}"), 404)["code"] == "model_not_found"


def test_a_finished_jobs_model_goes_with_its_checkpoints(any_api: Api) -> None:
    job_id = any_api.submit(suffix="a/b")["id"]
    any_api.http.post(f"/v1/jobs/{job_id}/cancel")
    stored = {"storage_key": "checkpoints/x", "manifest_sha256": "0", "size_bytes": 1, "metrics": {}, "best": False}
    with any_api.database.transaction() as session:
        job = session.get_one(Job, job_id)
        rows = [
            Checkpoint(
                id=f"ckpt_{step}",
                job_id=job_id,
                project_id=job.project_id,
                fence=1,
                step=step,
                model_name=f"{job.model_name}:ckpt-step-{step}",
                **stored,
            )
            for step in (10, 20)
        ]
        session.add_all(rows)
        model = registry.add_model(session, job, rows[1], metrics={"validation_loss": 2.0}, has_chat_template=True)
    assert "/" in model.name
    shown = any_api.http.get(f"/v1/models/{model.name}").json()
    assert (shown["id"], shown["job"], shown["metrics"]) == (model.name, job_id, {"validation_loss": 2.0})
    with any_api.database.reading() as session:
        for name in (model.name, f"{model.name}:ckpt-step-10"):
            servable = registry.resolve_model(session, any_api.project_id(), name)
            assert models.trained_length(session, servable) == 64  # of the job's rows
    kept = any_api.submit(model={"init": "pretrained", "from": f"{model.name}:ckpt-step-10"})["id"]
    assert any_api.http.delete(f"/v1/models/{model.name}").status_code == 200
    left = any_api.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    assert [row["step"] for row in left] == [10]  # another job starts from it
    any_api.http.post(f"/v1/jobs/{kept}/cancel")
    assert any_api.http.delete(f"/v1/models/{left[0]['model']}").status_code == 200


def test_tokenizers(any_api: Api) -> None:
    row = TokenizerRow(
        id="tok_1",
        project_id=any_api.project_id(),
        vocab_size=600,
        sha256="0",
        metrics={"bytes_per_token": 2.5},
        storage_key="tokenizers/1",
    )
    with any_api.database.transaction() as session:
        session.add(row)
    shown = any_api.http.get("/v1/tokenizers/tok_1").json()
    assert (shown["vocab_size"], shown["metrics"]) == (600, {"bytes_per_token": 2.5})
    assert any_api.http.get("/v1/tokenizers").json()["data"] == [shown]
    job = any_api.submit(model={"init": "random", "dimensions": TINY, "tokenizer": "tok_1"})
    assert error_of(any_api.http.delete("/v1/tokenizers/tok_1"), 409)["code"] == "in_use"
    any_api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert any_api.http.delete("/v1/tokenizers/tok_1").json()["deleted"] is True
    assert error_of(any_api.http.get("/v1/tokenizers/tok_1"), 404)["code"] == "tokenizer_not_found"


def test_workers_and_figures(any_api: Api) -> None:
    job_id = any_api.submit()["id"]
    any_api.http.get(f"/v1/jobs/{job_id}")
    with any_api.database.transaction() as session:
        workers.beat(session, "w1", kind="train", host="box", pid=42, version="0.1.0", slots=[{"device": "cpu"}])
    row = any_api.http.get("/v1/workers").json()["data"][0]
    assert (row["kind"], row["host"], row["pid"], row["slots"]) == ("train", "box", 42, [{"device": "cpu"}])
    text = any_api.http.get("/metrics").text
    assert 'weightsmith_jobs{state="validating"} 1.0' in text
    assert 'weightsmith_queue_depth{queue="light"} 1.0' in text
    assert 'weightsmith_workers{kind="train"} 1.0' in text
    assert 'weightsmith_http_requests_total{method="GET",route="/v1/workers",status="200"}' in text
    assert 'route="/v1/jobs/{job_id}"' in text
    assert job_id not in text


def test_the_reference_and_the_catalog_are_served(api: Api) -> None:
    assert api.http.get("/openapi.json").json()["info"]["title"] == "Weightsmith"
    assert api.http.get("/v1/catalog").json()["object"] == "catalog"
    del api.http.headers["authorization"]
    assert api.http.get("/openapi.json").status_code == 401
    page = api.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("docs.js", "docs.css"):
        assert f"/docs/{name}" in page.text
        assert api.http.get(f"/docs/{name}").status_code == 200
