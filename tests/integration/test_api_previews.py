"""Previews over HTTP: by a tokenizer or a model, refused, bounded."""

from typing import Any

import pytest

from core.data.tokenizer import Tokenizer
from core.jobs.tables import Model
from tests.apis import CHAT, Api
from tests.jobs import train_spec


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def stored_model(api: Api) -> str:
    """A model with a context of 32 tokens, of which only the tokenizer is there."""
    config = train_spec().model.shape(vocab_size=327)  # type: ignore[union-attr]
    row = Model(
        name="pt:lab:plays:1a2b3c4d",
        project_id=api.project_id(),
        root="plays",
        config=config.model_dump(mode="json"),
        num_parameters=config.num_parameters(),
        metrics={},
        has_chat_template=True,
        storage_key="models/preview",
        manifest_sha256="0",
        size_bytes=1,
    )
    Tokenizer.bytes().save(api.storage.root / "models/preview/model")
    with api.database.transaction() as session:
        session.add(row)
    return "pt:lab:plays:1a2b3c4d"


def test_a_preview_shows_what_is_learned(any_api: Api) -> None:
    file = any_api.put(CHAT, filename="chat.jsonl")
    answer = any_api.http.post(f"/v1/files/{file['id']}/preview", json={"tokenizer": "bytes", "limit": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["object"], found["file"], found["objective"], found["sequence_length"]) == (
        *("file.preview", file["id"], "supervised", 512),
    )
    assert [row["line"] for row in found["rows"]] == [1, 2]
    (sequence,) = found["rows"][0]["examples"][0]["sequences"]
    assert [piece["text"] for piece in sequence["pieces"] if piece["learned"]] == ["hello<|im_end|>"]


def test_a_preview_by_a_models_tokenizer(api: Api) -> None:
    name = stored_model(api)
    file = api.put(CHAT, filename="chat.jsonl")["id"]

    def preview(**body: Any) -> Any:
        return api.http.post(f"/v1/files/{file}/preview", json=body)

    assert preview(model=name).json()["sequence_length"] == 32
    assert preview(tokenizer=name, limit=1).json()["rows"] == preview(model=name, limit=1).json()["rows"]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "pt:none"}, "model_not_found", "model"),
        ({"tokenizer": "tok_none"}, "tokenizer_not_found", "tokenizer"),
        ({"model": name, "sequence_length": 33}, "sequence_too_long", "sequence_length"),
        ({"model": name, "format": "text"}, "mixed_formats", "format"),
        ({"model": name, "objective": {"kind": "causal_lm"}}, "format_mismatch", "objective.kind"),
    ]
    for body, code, param in cases:
        error = error_of(preview(**body), 400)
        assert (error["code"], error["param"]) == (code, param), error
    assert "Give either `model` or `tokenizer`" in error_of(preview(), 400)["message"]
    assert error_of(preview(model=name, limit=21), 400)["param"] == "limit"
    assert error_of(api.http.post("/v1/files/file-no/preview", json={"tokenizer": "bytes"}), 404)
    other = api.put(b"x", purpose="user_data")["id"]
    answer = api.http.post(f"/v1/files/{other}/preview", json={"tokenizer": "bytes"})
    assert error_of(answer, 400)["code"] == "wrong_purpose"


def test_a_preview_that_takes_too_long_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.previews.SECONDS", 0.0)
    file = api.put(CHAT, filename="chat.jsonl")["id"]
    answer = api.http.post(f"/v1/files/{file}/preview", json={"tokenizer": "bytes"})
    assert error_of(answer, 400)["code"] == "preview_too_slow"
