"""Every objective that learns tokens, from examples to weights: it learns, resumes with the same bits, and neither
packing nor micro-batches change what is learned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch

from core.data.batches import Lane, RowBatch
from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder
from core.data.examples import Document, Example, PromptCompletion, TextPair
from core.data.recipe import encoding_of, is_divisible
from core.data.renderer import Renderer
from core.data.token_dataset import TokenDataset, write_token_dataset
from core.data.tokenizer import Tokenizer
from core.events import Evaluated, Event, Resumed, Sampled, Step
from core.job_spec import RandomModel, TrainSpec
from core.training import loop
from core.training.stats import stats_of
from tests.unit.core.training.conftest import BASE, LENGTH, VOCAB, Lab

BYTES = Tokenizer.bytes()


def lines(count: int, *, seed: int) -> list[str]:
    """Texts in which each letter follows from the one before."""
    generator = torch.Generator().manual_seed(seed)
    starts, sizes = (
        torch.randint(low, high, (count,), generator=generator).tolist() for low, high in ((0, 26), (6, 40))
    )
    return [
        "".join(chr(97 + (start + 3 * at) % 26) for at in range(size))
        for start, size in zip(starts, sizes, strict=True)
    ]


def documents(count: int, seed: int) -> list[Example]:
    return [Document(text) for text in lines(count, seed=seed)]


def couplets(count: int, seed: int) -> list[Example]:
    """Two lines, of which the second goes on where the first ends."""
    return [Document(f"{text[:1]}.\n{text[1:2]}.") for text in lines(count, seed=seed)]


def completions(count: int, seed: int) -> list[Example]:
    """The end of a text goes on from its beginning."""
    return [PromptCompletion(text[:3], text[3:7]) for text in lines(count, seed=seed)]


def reversals(count: int, seed: int) -> list[Example]:
    return [TextPair(text[:5], text[4::-1]) for text in lines(count, seed=seed)]


@dataclass(frozen=True)
class Case:
    objective: dict[str, Any]
    examples: Callable[[int, int], list[Example]] = documents
    family: str = "llama"
    below: float = 2.6
    """what the validation loss falls under in 80 steps; a guess costs 5.8"""
    more: tuple[str, ...] = ("entropy",)
    """metrics besides loss, perplexity and token accuracy"""


CASES = {
    "causal_lm": Case(
        {"kind": "causal_lm", "z_loss": 1e-4, "label_smoothing": 0.05}, more=("entropy", "bits_per_byte")
    ),
    "prefix_lm": Case({"kind": "prefix_lm"}),
    "prefix_lm of prompts": Case({"kind": "prefix_lm"}, completions),
    "fill_in_the_middle": Case({"kind": "fill_in_the_middle"}, below=3.6),
    "masked_lm": Case({"kind": "masked_lm"}, family="bert", below=3.5, more=()),
    "next_sentence": Case(
        {"kind": "masked_lm", "next_sentence": "binary"},
        couplets,
        family="bert",
        below=4.2,
        more=("next_sentence_accuracy",),
    ),
    "span_corruption": Case({"kind": "span_corruption", "z_loss": 1e-4}, family="t5", below=3.2),
    "sequence_to_sequence": Case(
        {"kind": "sequence_to_sequence", "label_smoothing": 0.1},
        reversals,
        "transformer",
        3.2,
        ("entropy", "exact_match"),
    ),
    "supervised": Case({"kind": "supervised"}, completions, more=("entropy", "exact_match")),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def specify(lab: Lab, case: Case, **more: Any) -> TrainSpec:
    """A spec of the case, with its data in the lab."""
    spec = lab.spec(**{"objective": case.objective, "model": BASE["model"] | {"family": case.family}} | more)
    lab.train, lab.held_out = (
        tokenized(lab, spec, case.examples(count, seed), name)
        for count, seed, name in ((20, 0, "train"), (6, 1, "held out"))
    )
    return spec


def calm(case: Case) -> dict[str, Any]:
    """Its model without dropout."""
    return BASE["model"] | {"family": case.family, "dropout": 0.0}


def tokenized(lab: Lab, spec: TrainSpec, examples: list[Example], name: str) -> TokenDataset:
    """As `core.data.prepare` does it."""
    assert isinstance(spec.model, RandomModel)
    kind = spec.model.shape(vocab_size=VOCAB).kind
    encoding = encoding_of(spec.objective, model=kind, sequence_length=LENGTH, seed=0, labels=())
    with Renderer() as renderer:
        made = encode_examples(examples, Encoder(BYTES, renderer, encoding))
    divisible = is_divisible(encoding, ["text" if isinstance(examples[0], Document) else "prompt_completion"])
    flat = [example for of_one in made for example in of_one]
    return write_token_dataset(lab.path / name, flat, vocab_size=VOCAB, divisible=divisible)


def test_it_learns(lab: Lab, case: Case) -> None:
    spec = specify(lab, case, budget={"steps": 80}, evaluation={"every": 80, "samples": 1}, model=calm(case))
    attempt = lab.run(spec)
    assert len(attempt.of(Sampled)) == (case.family != "bert")
    metrics = attempt.finished.metrics
    assert attempt.steps[0].loss > 5.0
    assert metrics["validation_loss"] < case.below
    names = {"loss", "perplexity", "token_accuracy", *case.more}
    assert set(metrics) == {f"validation_{name}" for name in names}
    assert names <= set(spec.objective.metrics)
    assert "entropy" not in attempt.steps[-1].metrics  # of evaluations only: it costs a look at all logits


def figures(attempt: Any, *, after: int = 0) -> list[dict[str, Any]]:
    """Every step and evaluation, without what the clock says."""
    events = [event for event in attempt.events if isinstance(event, Step | Evaluated) and event.step > after]
    return [event.model_dump(exclude={"seconds", "tokens_per_second"}) for event in events]


def test_stopped_or_killed_anywhere_it_ends_with_the_same_bits(lab: Lab, case: Case) -> None:
    spec = specify(lab, case, budget={"steps": 6}, precision="bf16")
    whole = lab.run(spec)

    def at(step: int) -> Callable[[Event], bool]:
        return lambda event: isinstance(event, Step) and event.step == step

    for step in (1, 4):
        stopped = lab.run(spec, stop_when=at(step))
        resumed = lab.run(spec, after=stopped)
        assert resumed.of(Resumed) == [Resumed(step=step, exactness="exact")]
        assert resumed.weights == whole.weights, f"stopped at {step}"
        assert figures(stopped) + figures(resumed, after=step - 1) == figures(whole)
    killed = lab.run(spec, kill_when=at(5))
    assert lab.run(spec, after=killed).weights == whole.weights


@pytest.fixture
def opened(lab: Lab, case: Case, monkeypatch: pytest.MonkeyPatch) -> loop.Run:
    """What `core.training.run` hands to the loop; no dropout."""
    held: list[loop.Run] = []

    def hold(run: loop.Run, progress: Any) -> Iterator[Event]:
        held.append(run)
        return iter(())

    monkeypatch.setattr(loop, "train", hold)
    lab.run(specify(lab, case, model=calm(case)))
    return held[0]


def gradient(run: loop.Run, batches: list[RowBatch]) -> torch.Tensor:
    """Of the mean loss over the batches together."""
    run.optimizer.zero_grad()
    run.forward.model.train()
    count = 0.0
    for batch in batches:
        stats = stats_of(run.spec.objective, run.forward, batch)
        if stats is not None:
            loss = run.spec.objective.loss(stats)
            loss.sum.backward()
            count += float(loss.count)
    gradients = [p.grad.flatten() for p in run.forward.model.parameters() if p.grad is not None]
    return torch.cat(gradients) / count


def unpacked(batch: RowBatch) -> RowBatch:
    """Every example of the batch in a row of its own."""
    places = [
        (row, segment)
        for row in range(len(batch))
        for segment in range(1, int(batch.lanes[-1].segments_BT[row].max()) + 1)
    ]

    def alone(lane: Lane) -> Lane:
        rows = {
            field.name: torch.zeros((len(places), lane.ids_BT.shape[1]), dtype=getattr(lane, field.name).dtype)
            for field in fields(lane)
        }
        for i, (row, segment) in enumerate(places):
            here = lane.segments_BT[row] == segment
            for name, tensor in rows.items():
                tensor[i, : int(here.sum())] = getattr(lane, name)[row, here]
            rows["segments_BT"][i].clamp_(max=1)
        return Lane(**rows)

    rows, segments = zip(*places, strict=True)
    chosen = (list(rows), [segment - 1 for segment in segments])
    return replace(
        batch,
        lanes=tuple(alone(lane) for lane in batch.lanes),
        labels_BEC=batch.labels_BEC[chosen][:, None],
        documents_BE=batch.documents_BE[chosen][:, None],
    )


def test_packing_and_micro_batches_do_not_matter(opened: loop.Run) -> None:
    """Up to rounding in fp32: within 1e-5 of the gradient's norm."""
    batches = map(opened.batches.batch, range(20))
    batch = next(batch for batch in batches if int(batch.lanes[-1].segments_BT.max()) > 1)  # several share a row
    whole = gradient(opened, [batch])
    alone = unpacked(batch)
    for others in (
        [alone],
        [batch.rows(slice(i, i + 1)) for i in range(len(batch))],
        [alone.rows(slice(0, 5)), alone.rows(slice(5, None))],
    ):
        assert float((gradient(opened, others) - whole).norm() / whole.norm()) < 1e-5
