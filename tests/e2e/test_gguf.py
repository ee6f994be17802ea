"""A model as a GGUF file, over REST: what comes is the model, and what GGUF cannot hold is refused."""

import shutil
from pathlib import Path

import pytest
import tokenizers
import torch

from core.adapters.attach import attach_to
from core.adapters.peft_config import AdapterBase
from core.adapters.peft_directory import load_merged, save_adapter
from core.adapters.spec import LoRA
from core.data.special_tokens import SPECIALS
from core.data.tokenizer import Tokenizer
from core.data.words import word_splitter
from core.generation_request import ServedModel
from core.jobs.database import Database
from core.jobs.tables import Model
from core.models import families
from core.models.config import Dimensions
from core.models.export import measure
from core.models.gguf.read import convert
from core.models.manifest import write_manifest
from core.models.weights import load_model
from core.storage import open_storage
from tests.e2e.conftest import Service, add_model
from tests.generators import put_model
from tests.unit.core.adapters.conftest import fill
from tests.unit.core.models.tiny import made

TEXT = "to be or not to be, that is the question"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """As they are trained here."""
    hf = tokenizers.Tokenizer(tokenizers.models.BPE())
    hf.pre_tokenizer = word_splitter()
    hf.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator([TEXT] * 50, trainer)
    return Tokenizer.of(hf)


@pytest.fixture(scope="module")
def decoder(service: Service, tokenizer: Tokenizer) -> ServedModel:
    dims = Dimensions(hidden_size=64, num_layers=2, num_heads=4, context_length=64)
    model = made(families.shape("llama", dims, vocab_size=tokenizer.vocab_size))
    served = put_model(service.settings, service.settings.home / "gguf", name="llama", made=model, tokenizer=tokenizer)
    add_model(service.settings, served, alias="llama")
    return served


@pytest.fixture(scope="module")
def adapter(service: Service, tokenizer: Tokenizer, decoder: ServedModel) -> str:
    """One that stands on the decoder, as a run leaves it."""
    storage = open_storage(service.settings.storage_url)
    model = load_model(storage.directory(decoder.storage_key) / "model")
    base = AdapterBase(model=decoder.id, manifest_sha256=decoder.manifest_sha256)
    attached = attach_to(model, LoRA(rank=4, targets=["q_proj", "up_proj"]), dtype=torch.float32, base=base)
    fill(attached)
    folder = service.settings.home / "gguf" / "adapter"
    (folder / "model").mkdir(parents=True)
    save_adapter(attached, folder / "model", model.config)
    tokenizer.save(folder / "model")
    sha256, _ = write_manifest(folder, step=1)
    storage.put_directory("checkpoints/adapter", folder)
    shutil.rmtree(folder)
    database = Database(service.settings.database_url)
    with database.transaction() as session:
        row = session.get_one(Model, decoder.id)
        values = {name: getattr(row, name) for name in ("project_id", "config", "num_parameters", "metrics")}
        spec = LoRA(rank=4, targets=["q_proj", "up_proj"]).model_dump(mode="json")
        session.add(
            Model(
                name="ft:test:adapter",
                root="tiny",
                has_chat_template=True,
                storage_key="checkpoints/adapter",
                manifest_sha256=sha256,
                size_bytes=1,
                adapter=spec,
                stands_on=decoder.id,
                **values,
            )
        )
    database.close()
    return "ft:test:adapter"


def download(service: Service, model: str, to: Path, **params: str) -> Path:
    with service.http() as http:
        answer = http.get(f"/models/{model}/download", params={"format": "gguf"} | params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-length"] == str(len(answer.content))
    (to / "m.gguf").write_bytes(answer.content)
    convert(to / "m.gguf", to / "model", dtype="F32")
    return to / "model"


def test_a_decoder(service: Service, decoder: ServedModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    original = load_model(open_storage(service.settings.storage_url).directory(decoder.storage_key) / "model")
    copy = load_model(download(service, "llama", tmp_path, quantization="Q8_0"))
    drift = measure(original.eval(), copy.eval(), [tokenizer.encode(TEXT)])
    assert 0 < drift.divergence < 0.02
    assert not list((service.settings.home / "scratch").glob("export-*"))


def test_an_adapter_in_its_base(
    service: Service, decoder: ServedModel, adapter: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    storage = open_storage(service.settings.storage_url)
    base, own = (storage.directory(key) / "model" for key in (decoder.storage_key, "checkpoints/adapter"))
    copy = load_model(download(service, adapter, tmp_path, quantization="f32")).eval()
    rows = [tokenizer.encode(TEXT)]
    assert measure(load_merged(base, own).eval(), copy, rows).divergence < 1e-5
    assert measure(load_model(base).eval(), copy, rows).divergence > 1e-3


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"format": "gguf", "quantization": "q2_k"}, "invalid_request", "q8_0"),
        ({"quantization": "q8_0"}, "invalid_request", "is for `format=gguf`"),
    ],
)
def test_refused(service: Service, decoder: ServedModel, params: dict[str, str], code: str, words: str) -> None:
    assert words in refusal(service, decoder.id, code, **params)


def test_what_gguf_cannot_hold(service: Service, tokenizer: Tokenizer) -> None:
    folder = service.settings.home / "gguf"
    dims = Dimensions(hidden_size=32, num_layers=1, num_heads=2, context_length=64)
    config = families.shape("bert", dims, vocab_size=Tokenizer.bytes().vocab_size)
    tagger = put_model(
        service.settings, folder, name="tagger", made=made(config.with_head("tagger", labels=("A", "B")))
    )
    add_model(service.settings, tagger, alias="tagger")
    assert "GGUF holds decoders" in refusal(service, tagger.id, "cannot_export", format="gguf")

    hf = tokenizers.Tokenizer.from_str(tokenizer._json)
    hf.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    odd, model = Tokenizer.of(hf), made(families.shape("llama", dims, vocab_size=tokenizer.vocab_size))
    served = put_model(service.settings, folder, name="odd", made=model, tokenizer=odd)
    add_model(service.settings, served, alias="odd")
    assert "pre-tokenizer" in refusal(service, served.id, "cannot_export", format="gguf")


def refusal(service: Service, model: str, code: str, **params: str) -> str:
    """The message."""
    with service.http() as http:
        answer = http.get(f"/models/{model}/download", params=params)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code), error
    return str(error["message"])
