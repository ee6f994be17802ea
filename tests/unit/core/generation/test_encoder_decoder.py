"""Encoder-decoders write what a full forward pass says, and what `transformers` finds with the same weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.errors import InvalidRequest
from core.generation.beam_search import BeamSearch
from core.generation.continuation import Continuation, Line, continuations
from core.generation.decoder_rows import DecoderRows
from core.generation.encoder_decoder import EncoderDecoderEngine
from core.generation.packed_linear import pack_linears
from core.models import families
from core.models.config import Dimensions, FamilyName
from core.models.transformer import Transformer
from core.sampling_params import SamplingParams
from core.training import greedy
from tests.unit.core.models.tiny import ENCODER_DECODERS, Case, exported, hidden_states, made, theirs

PAD, ENDS = 1, tuple(range(40, 52))
"""many tokens end an answer, so that some do"""
SOURCES = [[5, 9, 33, 7, 0], [44, 3, 0], [12, 13, 14, 15, 16, 17, 18, 0]]
CONTEXT = 64
every_case = pytest.mark.parametrize("case", ENCODER_DECODERS, ids=str)


def wide(case: Case) -> Transformer:
    """A model that is sure of something: near-ties are rare."""
    model = made(case.config())
    with torch.no_grad():
        model.lm_head.weight *= 3
    return model


def full_logits(model: Transformer, source: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[V] after the answer's last token, computed anew."""
    ids_BT = torch.tensor([[PAD, *answer]])
    hidden_BTD = hidden_states(model, ids_BT, source_BS=torch.tensor([source]))
    return model.logits(hidden_BTD)[0, -1]


@every_case
@torch.no_grad()
def test_cached_rows_are_the_full_forward_pass(case: Case) -> None:
    model = wide(case)
    rows = DecoderRows(model, SOURCES, start=PAD)
    rows.select([2, 0, 0, 1])
    sources = [SOURCES[i] for i in (2, 0, 0, 1)]
    answers: list[list[int]] = [[] for _ in sources]
    for step in range(12):
        wanted_BV = torch.stack([full_logits(model, s, a) for s, a in zip(sources, answers, strict=True)])
        torch.testing.assert_close(rows.logits_BV, wanted_BV, rtol=1e-4, atol=1e-4)
        if step == 5:
            kept = [3, 1, 1]
            rows.select(kept)
            sources, answers = [sources[i] for i in kept], [[*answers[i]] for i in kept]
        tokens = [(7 * step + 3 * b) % 59 + 2 for b in range(len(answers))]
        answers = [[*answer, token] for answer, token in zip(answers, tokens, strict=True)]
        rows.push(tokens)


@torch.no_grad()
def searched(model: Transformer, source: Sequence[int], *, num_beams: int, length_penalty: float) -> BeamSearch:
    rows = DecoderRows(model, [source], start=PAD)
    search = BeamSearch(num_beams, length_penalty, 20, ENDS)
    while not search.is_over:
        logp_WV = rows.logits_BV.log_softmax(-1)
        logp_WV[:, PAD] = float("-inf")
        rows.select(search.advance(logp_WV))
        rows.push([beam[-1] for beam in search.beams])
    return search


@every_case
def test_beams_find_what_transformers_finds(tmp_path: Path, case: Case) -> None:
    model = wide(case)
    other = theirs(exported(model, tmp_path))
    lengths = set()
    for num_beams, length_penalty in ((2, 1.0), (4, 1.0), (4, 0.0), (3, 2.0), (5, -1.0)):
        for source in SOURCES:
            found = other.generate(
                torch.tensor([source]),
                num_beams=num_beams,
                num_return_sequences=num_beams,
                length_penalty=length_penalty,
                max_new_tokens=20,
                do_sample=False,
                bad_words_ids=[[PAD]],
                eos_token_id=list(ENDS),
                use_cache=False,  # theirs has as many layers as the encoder
                return_dict_in_generate=True,
                output_scores=True,
            )
            ours = searched(model, source, num_beams=num_beams, length_penalty=length_penalty)
            wanted = [[id for id in row[1:] if id != PAD] for row in found.sequences.tolist()]
            assert [finished.tokens for finished in ours.finished] == wanted
            scores = [finished.score for finished in ours.finished]
            assert scores == pytest.approx(found.sequences_scores.tolist(), rel=1e-3, abs=1e-3)
            lengths |= {len(row) for row in wanted}
    assert len(lengths) > 3


class Bench:
    """An engine on a byte tokenizer, with its lines by answer."""

    def __init__(self, family: FamilyName = "t5", *, num_slots: int = 8) -> None:
        self.tokenizer = Tokenizer.bytes()
        dims = Dimensions(hidden_size=32, num_layers=2, num_heads=4, context_length=CONTEXT)
        self.model = made(families.shape(family, dims, vocab_size=self.tokenizer.vocab_size))
        self.engine = EncoderDecoderEngine(self.model, self.tokenizer, num_slots=num_slots)
        self.lines: dict[Continuation, list[Line]] = {}

    def submit(self, *prompts: str, **params: Any) -> list[Continuation]:
        answers = continuations(
            [[*self.tokenizer.encode(prompt), self.tokenizer.end_of_text] for prompt in prompts],
            SamplingParams.model_validate({"temperature": 0, "max_tokens": 12} | params),
            self.tokenizer,
            context_length=CONTEXT,
            vocab_size=self.tokenizer.vocab_size,
            are_sources=True,
        )
        self.engine.submit(answers)
        self.lines |= {answer: [] for answer in answers}
        return answers

    def step(self) -> None:
        for answer, line in self.engine.step():
            self.lines[answer].append(line)

    def finish(self, *prompts: str, **params: Any) -> list[Continuation]:
        answers = self.submit(*prompts, **params)
        self.run()
        return answers

    def run(self) -> None:
        while self.engine.has_work:
            self.step()

    def ends(self, answer: Continuation) -> str:
        return self.lines[answer][-1].kind


@pytest.fixture(params=["transformer", "t5"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


@torch.no_grad()
def test_greedy_answers_are_the_likeliest_tokens(bench: Bench) -> None:
    answers = bench.finish("one", "a longer source", logprobs=2)
    for answer, prompt in zip(answers, ("one", "a longer source"), strict=True):
        source = [*bench.tokenizer.encode(prompt), bench.tokenizer.end_of_text]
        written: list[int] = []
        for token in answer.tokens:
            ids_BT = torch.tensor([[bench.tokenizer.pad, *written]])
            hidden_BTD = hidden_states(bench.model, ids_BT, source_BS=torch.tensor([source]))
            logits_V = bench.model.logits(hidden_BTD)[0, -1]
            logits_V[bench.tokenizer.pad] = float("-inf")
            assert token == int(logits_V.argmax())
            written.append(token)
        assert bench.ends(answer) == "done"
        scores = [line.scores for line in bench.lines[answer] if line.kind == "token" and line.scores]
        assert all(score.logprob == score.top[0].logprob for score in scores)
    alone = bench.finish("one")
    assert alone[0].tokens == answers[0].tokens
    ends = bench.tokenizer.stop_ids
    sources = [answer.prompt.ids for answer in answers]
    shown = greedy.answer(bench.model, bench.tokenizer, sources, max_tokens=12)  # what people see while it trains
    assert shown == [[token for token in answer.tokens if token not in ends] for answer in answers]


@torch.no_grad()
def test_in_half_precision_it_is_nearly_the_same(bench: Bench) -> None:
    source = [*b"a source", 256]
    whole_BV = DecoderRows(bench.model, [source], start=bench.tokenizer.pad).logits_BV
    bench.model.bfloat16()
    pack_linears(bench.model)  # as large models are served
    half_BV = DecoderRows(bench.model, [source], start=bench.tokenizer.pad).logits_BV
    assert half_BV.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(whole_BV, half_BV) > 0.999


def test_an_answer_is_never_longer_than_the_context(bench: Bench) -> None:
    for max_tokens in (None, 64, 1000):
        assert bench.submit("one", max_tokens=max_tokens)[0].max_tokens == CONTEXT


def test_drawn_answers_differ_and_come_again(bench: Bench) -> None:
    first = bench.finish("one", "two", n=3, temperature=1.0, seed=7)
    again = bench.finish("one", "two", n=3, temperature=1.0, seed=7)
    assert [answer.tokens for answer in first] == [answer.tokens for answer in again]
    assert len({tuple(answer.tokens) for answer in first}) == 6
    assert bench.engine.num_used == 0


def test_beams_of_several_sources_are_those_of_each(bench: Bench) -> None:
    together = bench.finish("one", "a longer source", "x", num_beams=3, n=2)
    for i, prompt in enumerate(("one", "a longer source", "x")):
        alone = bench.finish(prompt, num_beams=3, n=2)
        assert [answer.tokens for answer in together[2 * i : 2 * i + 2]] == [answer.tokens for answer in alone]
    assert all(bench.ends(answer) == "done" for answer in together)


def test_a_stop_string_cuts_what_beams_found(bench: Bench) -> None:
    [whole] = bench.finish("one", num_beams=2)
    text = "".join(line.text for line in bench.lines[whole] if line.kind == "token")
    [cut] = bench.finish("one", num_beams=2, stop=[text[1:3]])
    shown = "".join(line.text for line in bench.lines[cut] if line.kind == "token")
    assert shown == text[: text.index(text[1:3])]
    done = bench.lines[cut][-1]
    assert (done.kind, getattr(done, "finish_reason", "")) == ("done", "stop")


def test_more_answers_than_slots_take_turns(bench: Bench) -> None:
    answers = bench.submit("one", "two", "three", n=4)
    assert bench.engine.num_waiting == 12
    bench.step()
    assert (bench.engine.num_used, bench.engine.num_waiting, bench.engine.num_free) == (8, 4, 0)
    bench.run()
    assert all(bench.ends(answer) == "done" for answer in answers)


def test_who_does_not_read_waits_and_who_left_is_dropped(bench: Bench) -> None:
    [slow] = bench.submit("one", max_tokens=40)
    [gone] = bench.submit("two", max_tokens=40, num_beams=2)
    bench.step()
    slow.is_paused = True
    gone.is_cancelled = True
    before = len(slow.tokens)
    bench.run()
    assert len(slow.tokens) == before
    assert bench.engine.num_used == 1
    slow.is_paused = False
    bench.run()
    assert bench.ends(slow) == "done"
    waiting = [bench.submit("three", n=8)[0] for _ in range(2)][1]
    bench.step()
    waiting.is_cancelled = True
    bench.run()
    assert bench.engine.num_used == 0


def test_what_fails_fails_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [good] = bench.submit("one")
    [bad] = bench.submit("two")
    bench.step()
    bench.step()
    monkeypatch.setattr(bad.sampler, "choose", lambda *_: 1 / 0)
    bench.run()
    assert (bench.ends(good), bench.ends(bad)) == ("done", "error")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_tokens": 0}, "at least 1"),
        ({"echo": True}, "does not go on from the prompt"),
        ({"num_beams": 2, "n": 3}, "2 beams find 2 answers at most"),
    ],
)
def test_what_they_do_not_do_is_refused(params: dict[str, Any], words: str) -> None:
    bench = Bench()
    with pytest.raises(InvalidRequest, match=words):
        bench.submit("one", **params)
    with pytest.raises(InvalidRequest, match="reads at most 64") as long:
        bench.submit("x" * 64)
    assert long.value.code == "context_length_exceeded"
