"""Objectives that say something of texts, on tiny encoders and decoders: they learn, and nothing but the maths decides
what."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.data.batches import RowBatch, validation_batches
from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder
from core.data.examples import Example, Labelled, Question, Scored, Similar, Tagged
from core.data.recipe import encoding_of
from core.data.renderer import Renderer
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.events import Evaluated, Resumed, Step
from core.models import families
from core.models.config import Dimensions, ModelConfig
from core.models.directory import read_model_config, write_model_config
from core.models.transformer import Transformer
from core.models.weights import save_weights
from core.objectives import OBJECTIVES
from core.training import loop
from core.training.stats import Forward, Seen, stats_of, survey
from tests.unit.core.training.conftest import VOCAB, Attempt, Lab

LENGTH = 48
DIMENSIONS: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": LENGTH}
TOKENIZER = Tokenizer.bytes()
SPECS: dict[str, dict[str, Any]] = {
    "one label": {"kind": "sequence_classification"},
    "smoothed": {"kind": "sequence_classification", "label_smoothing": 0.1},
    "soft targets": {"kind": "sequence_classification"},
    "many labels": {"kind": "sequence_classification", "labels": "many"},
    "pairs": {"kind": "sequence_classification"},
    "tags": {"kind": "token_classification"},
    "answers": {"kind": "question_answering"},
    "values": {"kind": "regression"},
    "similar": {"kind": "contrastive", "temperature": 0.1},
    "hard negatives": {"kind": "contrastive", "temperature": 0.1, "negatives": "hard"},
}
LABELS = {"tags": ("B-LOW", "I-LOW", "O"), "pairs": ("other", "same")} | dict.fromkeys(
    ("one label", "smoothed", "soft targets", "many labels"), ("high", "low")
)
every_objective = pytest.mark.parametrize("name", SPECS)
every_kind = pytest.mark.parametrize("family", ["bert", "llama"])
Generator = np.random.Generator


def word(generator: Generator, letters: str) -> str:
    return "".join(letters[i] for i in generator.integers(0, len(letters), int(generator.integers(2, 5))))


LOW, HIGH = "abcdef", "uvwxyz"


def example_of(name: str, generator: Generator) -> Example:
    """Low letters and high letters: what a text is made of decides everything."""
    is_low = bool(generator.integers(2))
    letters = LOW if is_low else HIGH
    text = " ".join(word(generator, letters) for _ in range(int(generator.integers(1, 4))))
    match name:
        case "one label" | "smoothed":
            return Labelled(text, None, (("low" if is_low else "high", 1.0),))
        case "soft targets":
            return Labelled(text, None, (("low", 0.9 if is_low else 0.2), ("high", 0.1 if is_low else 0.8)))
        case "many labels":
            both = bool(generator.integers(2))
            text = f"{text} {word(generator, HIGH)}" if both else text
            given = {"low": is_low, "high": both or not is_low}
            return Labelled(text, None, tuple((name, 1.0) for name, there in given.items() if there), many=True)
        case "pairs":
            pair = word(generator, LOW if generator.integers(2) else HIGH)
            return Labelled(text, pair, (("same" if (pair[0] in LOW) == is_low else "other", 1.0),))
        case "tags":
            low = [False, *(bool(generator.integers(2)) for _ in range(int(generator.integers(1, 6))))]
            words = (word(generator, LOW if here else HIGH) for here in low[1:])
            tags = ("O" if not here else "I-LOW" if before else "B-LOW" for before, here in pairwise(low))
            return Tagged(tuple(words), tuple(tags))
        case "answers":
            before, answer = word(generator, HIGH), word(generator, LOW)
            if generator.integers(5) == 0:
                return Question("low", before, "", -1)
            return Question("low", f"{before} {answer} {word(generator, HIGH)}", answer, len(before) + 1)
        case "values":
            return Scored(text, None, 1.0 if is_low else -0.5)
        case _:
            mean, other = (word(generator, LOW + HIGH)[:2] for _ in range(2))
            return Similar(mean * int(generator.integers(1, 4)), mean * int(generator.integers(2, 5)), other * 3)


def data(path: Path, name: str, family: str, count: int, *, seed: int) -> TokenDataset:
    generator = np.random.default_rng(seed)
    objective = OBJECTIVES[SPECS[name]["kind"]].model_validate(SPECS[name])
    encoding = encoding_of(
        objective,  # type: ignore[arg-type]
        model="encoder" if family == "bert" else "decoder",
        sequence_length=LENGTH,
        seed=0,
        labels=LABELS.get(name, ()),
    )
    with Renderer() as renderer:
        made = encode_examples(
            [example_of(name, generator) for _ in range(count)], Encoder(TOKENIZER, renderer, encoding)
        )
    examples = [window for windows in made for window in windows]
    return write_token_dataset(path, examples, vocab_size=VOCAB, divisible=False)


def config_of(name: str, family: Any) -> ModelConfig:
    objective = OBJECTIVES[SPECS[name]["kind"]].model_validate(SPECS[name])
    config = families.shape(family, Dimensions(**DIMENSIONS), vocab_size=VOCAB)
    return config.with_head(objective.head, labels=LABELS.get(name, ()), many_labels=objective.many_labels)


class LabelLab(Lab):
    """One objective, from random weights or from the directory of a language model."""

    def __init__(self, path: Path, name: str, family: str, *, imported: bool) -> None:
        super().__init__(path)
        self.objective, self.family, self.imported = SPECS[name], family, imported
        self.train, self.held_out = (
            data(path / part, name, family, count, seed=seed) for part, count, seed in (("a", 96, 0), ("b", 48, 1))
        )
        self.config = config_of(name, family)
        self.inputs = {"config": self.config}
        if imported:
            self.inputs["model"] = language_model(path / "start", family)

    def spec(self, **fields: Any) -> Any:
        model: dict[str, Any] = {
            "init": "random",
            "family": self.family,
            "dimensions": DIMENSIONS,
            "tokenizer": "bytes",
        }
        if self.imported:
            model = {"init": "pretrained", "from": "start"}
        model["dropout"] = fields.pop("dropout", 0.0)
        given = {
            "model": model,
            "objective": self.objective,
            "budget": {"steps": 4},
            "data": {
                "train": [{"file": "f"}],
                "validation": {"fraction": 0.1},
                "sequence_length": LENGTH,
                "packing": fields.pop("packing", "documents"),
            },
        }
        return super().spec(**(given | fields))


def language_model(path: Path, family: Any) -> Path:
    """A directory with a language model that nobody trained."""
    config = config_of("similar", family).with_head("language_model")
    made = Transformer(config)
    made.initialise(5)
    path.mkdir()
    save_weights(made, path)
    stops = sorted(TOKENIZER.stop_ids)
    write_model_config(path, config, pad=TOKENIZER.pad, end_of_text=TOKENIZER.end_of_text, stop_ids=stops)
    TOKENIZER.save(path)
    return path


def last(attempt: Attempt) -> dict[str, float]:
    return dict(attempt.of(Evaluated)[-1].metrics)


GOOD: dict[str, dict[str, float]] = {
    "sequence_classification": {"accuracy": 0.9, "exact_match": 0.8, "f1_macro": 0.9, "f1_micro": 0.9},
    "token_classification": {"token_accuracy": 0.8, "chunk_f1": 0.7, "chunk_precision": 0.7, "chunk_recall": 0.7},
    "question_answering": {"exact_match": 0.7, "span_f1": 0.8},
    "regression": {"pearson": 0.9},
    "contrastive": {"retrieval_accuracy": 0.5},
}


@pytest.mark.parametrize(
    ("name", "family"), [(name, f) for name in SPECS for f in ("bert", "llama") if name != "pairs"]
)
def test_it_learns(tmp_path: Path, name: str, family: str) -> None:
    lab = LabelLab(tmp_path, name, family, imported=family == "bert")
    attempt = lab.run(
        lab.spec(
            budget={"steps": 80},
            evaluation={"every": 80, "samples": 1},
            checkpoints={"every": 80, "keep_best": False},
        )
    )
    metrics = last(attempt)
    kind = lab.objective["kind"]
    assert set(metrics) == {f"validation_{metric}" for metric in OBJECTIVES[kind].metrics}
    for metric, least in GOOD[kind].items():
        assert metrics[f"validation_{metric}"] > least, metric
    assert attempt.steps[-1].loss < attempt.steps[0].loss
    written = attempt.path / (attempt.finished.path or "") / "model"
    assert read_model_config(written) == lab.config


@every_objective
def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    """Dropout draws, the last batch of an epoch is short, micro-batches are of four and two rows."""
    lab = LabelLab(tmp_path, name, "bert", imported=False)
    spec = lab.spec(dropout=0.2, budget={"epochs": 1.5}, batch={"sequences": 5}, precision="bf16")
    whole = lab.run(spec)
    stopped = lab.run(spec, stop_when=lambda event: isinstance(event, Step) and event.step == 1)
    resumed = lab.run(spec, after=stopped)
    assert resumed.of(Resumed) == [Resumed(step=1, exactness="exact")]
    assert whole.finished.step > 2
    assert resumed.weights == whole.weights
    assert last(resumed) == last(whole)


SGD_LIKE = {"learning_rate": 1e-3, "eps": 1.0}
"""AdamW whose update is the gradient, nearly: a tiny difference stays tiny"""


def first_step(attempt: Attempt) -> tuple[Step, dict[str, Tensor]]:
    return attempt.steps[0], load_file(attempt.path / (attempt.finished.path or "") / "model" / "model.safetensors")


@every_objective
def test_the_micro_batch_changes_nothing(tmp_path: Path, name: str) -> None:
    """Loss and every metric of the step and of the evaluation within 1e-5, the weights after it within 1e-6. The
    negatives of a contrastive step are those of the whole batch."""
    lab = LabelLab(tmp_path, name, "bert", imported=False)
    spec = lab.spec(budget={"steps": 1}, evaluation={"every": 1, "samples": 0}, optimizer=SGD_LIKE)
    whole, weights = first_step(attempt := lab.run(spec, micro_batch=6))
    for rows in (1, 4):
        other = lab.run(spec, micro_batch=rows)
        step, tensors = first_step(other)
        assert step.loss == pytest.approx(whole.loss, rel=1e-5)
        assert step.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
        assert step.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)
        for key, tensor in weights.items():
            torch.testing.assert_close(tensors[key], tensor, rtol=0, atol=1e-6)
        assert last(other) == pytest.approx(last(attempt), rel=1e-5, abs=1e-6)


def losses(lab: LabelLab, batches: list[RowBatch], model: Transformer) -> tuple[float, float, dict[str, float]]:
    """Summed loss and count, and the gradient's norm by parameter."""
    objective = lab.spec().objective
    forward = Forward(model=model, reference=None, precision="fp32", attention="math", separator=TOKENIZER.separator)
    model.zero_grad()
    total = count = 0.0
    for batch in batches:
        found = survey(objective, forward, batch, len(batch))
        stats = stats_of(objective, forward, batch, None if found is None else Seen(found, 0))
        loss = objective.loss(stats)
        loss.sum.backward()  # type: ignore[no-untyped-call]
        total, count = total + loss.sum.item(), count + loss.count.item()
    return total, count, {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}


@every_kind
@every_objective
def test_packed_equals_one_a_row(tmp_path: Path, name: str, family: str) -> None:
    """Loss, count and gradient within 1e-5, in one batch of all (contrastive losses look at whole batches)."""
    lab = LabelLab(tmp_path, name, family, imported=False)
    model = Transformer(lab.config)
    model.initialise(3)
    found = []
    for packing in ("documents", "none"):
        settings: dict[str, Any] = {"length": LENGTH, "sequences": 1000, "predicts": lab.spec().objective.predicts}
        batches = list(validation_batches(lab.held_out, packing=packing, **settings))
        found.append(losses(lab, batches, model))
        if packing == "documents":
            assert batches[0].documents_BE.shape[1] > 1, "several share a row"
    (total, count, norms), (alone, counted, others) = found
    assert total == pytest.approx(alone, rel=1e-5)
    assert count == counted
    assert norms == pytest.approx(others, rel=1e-4, abs=1e-5)


def test_a_division_with_dropout_is_the_same_step_only_in_its_parts(tmp_path: Path) -> None:
    """GradCache's two passes see the same dropout: the survey's embeddings are those of the second pass, to the bit."""
    lab = LabelLab(tmp_path, "similar", "bert", imported=False)
    model = Transformer(lab.config, dropout=0.3).train()
    model.initialise(3)
    objective = lab.spec().objective
    forward = Forward(model=model, reference=None, precision="fp32", attention="math", separator=TOKENIZER.separator)
    (batch,) = validation_batches(
        lab.held_out, packing="documents", length=LENGTH, sequences=1000, predicts=objective.predicts
    )
    torch.manual_seed(7)
    found = survey(objective, forward, batch, 3)
    torch.manual_seed(7)
    first = 0
    for start in range(0, len(batch), 3):
        part = batch.rows(slice(start, start + 3))
        stats = stats_of(objective, forward, part, Seen(found, start))
        here = int(stats.here_N.sum())
        assert torch.equal(stats.anchors_ND[first : first + here], found.lanes[0][first : first + here])
        first += here
    assert first == len(found.row_N)


def test_losses_of_the_loop_use_the_whole_batch(tmp_path: Path) -> None:
    """With a micro-batch of one row the retrieval is still among all rows of the batch."""
    lab = LabelLab(tmp_path, "similar", "bert", imported=False)
    spec = lab.spec(budget={"steps": 1}, batch={"sequences": 4}, packing="none")
    attempt = lab.run(spec, micro_batch=1)
    assert attempt.steps[0].loss > 0.2  # of one candidate it would be 0
    assert {"mean_squared_error"} <= loop.LOWER_IS_BETTER
