"""What the engine computes equals the plain forward pass, and nobody's answer depends on who else is served."""

import math

import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.generation import engine as engine_module
from core.models.attention import packed_attention
from core.models.transformer import Transformer

from .conftest import CONTEXT, Bench, tiny_decoder

LONG = "The quick brown fox jumps over the lazy dog. " * 4
PROMPTS = ["Once upon a time", "a", LONG, "To be, or not to be", LONG[:64], LONG[:65], "zz", "42"]


@torch.inference_mode()
def full_logprobs(model: Transformer, ids: list[int]) -> torch.Tensor:
    """[T, V] log-probabilities after each id, by the attention that training uses."""
    attend = packed_attention(torch.ones(1, len(ids), dtype=torch.long), kind="math")
    hidden = model(torch.tensor([ids]), torch.arange(len(ids))[None], attend)
    return model.logits(hidden)[0].float().log_softmax(-1)


def test_decoding_with_the_cache_equals_the_full_forward(bench: Bench, decoder: Transformer) -> None:
    answers = bench.finish(*PROMPTS, max_tokens=24, logprobs=3)
    for answer in answers:
        ids = answer.prompt.ids + answer.tokens
        expected = full_logprobs(decoder, ids)[len(answer.prompt.ids) - 1 : -1]
        assert answer.tokens == expected.argmax(-1).tolist()[: len(answer.tokens)]
        scores = [line.scores for line in bench.lines[answer] if line.kind == "token" and line.scores]
        assert len(scores) == len(answer.tokens) - (bench.reason(answer) == "stop")
        for row, score in enumerate(scores):
            assert score.logprob == pytest.approx(expected[row, answer.tokens[row]].item(), abs=1e-4)
            best = [scored.logprob for scored in score.top]
            assert best == pytest.approx(expected[row].topk(3).values.tolist(), abs=1e-4)


def test_long_prompts_are_computed_in_pieces(
    decoder: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Bench(decoder, tokenizer)
    expected = whole.finish(LONG, max_tokens=8)[0]
    monkeypatch.setattr(engine_module, "PIECE_TOKENS", 50)
    pieces = Bench(decoder, tokenizer)
    short, long = pieces.submit("ab", LONG, max_tokens=8)
    pieces.step()
    assert long.length == 50  # the short prompt left room for one piece
    assert len(short.tokens) == 2  # and its answer goes on meanwhile
    pieces.run()
    assert long.tokens == expected.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.9, "seed": 3, "top_p": 0.8, "frequency_penalty": 0.5}],
)
def test_an_answer_does_not_depend_on_its_neighbours(
    tokenizer: Tokenizer, dtype: torch.dtype, params: dict[str, object]
) -> None:
    model = tiny_decoder(tokenizer.vocab_size, dtype=dtype)
    alone = []
    for prompt in PROMPTS:
        bench = Bench(model, tokenizer)
        [answer] = bench.finish(prompt, max_tokens=40, logprobs=0, **params)
        alone.append([answer, bench.lines[answer]])
    crowd = Bench(model, tokenizer, num_slots=6)
    answers = []
    for prompt in PROMPTS:  # they come and go at different steps; two have to wait for a slot
        answers += crowd.submit(prompt, max_tokens=40, logprobs=0, **params)
        crowd.submit("noise " + prompt, max_tokens=3, temperature=1.0)
        crowd.step()
    crowd.run()
    for answer, (expected, lines) in zip(answers, alone, strict=True):
        assert answer.tokens == expected.tokens
        logprobs = [line.scores.logprob for line in crowd.lines[answer] if line.kind == "token" and line.scores]
        assert logprobs == [line.scores.logprob for line in lines if line.kind == "token" and line.scores]  # every bit


def test_one_seed_gives_one_answer_and_copies_differ(bench: Bench) -> None:
    first = bench.finish("hello", max_tokens=30, temperature=1.0, seed=11, n=3)
    again = bench.finish("hello", max_tokens=30, temperature=1.0, seed=11, n=3)
    other = bench.finish("hello", max_tokens=30, temperature=1.0, seed=12)
    unseeded = bench.finish("hello", "hello", max_tokens=30, temperature=1.0)
    assert [a.tokens for a in first] == [a.tokens for a in again]
    assert len({tuple(a.tokens) for a in [*first, *other, *unseeded]}) == 6
    assert [a.choice for a in first] == [0, 1, 2]


def test_copies_share_the_prompt_and_wait_for_slots(decoder: Transformer, tokenizer: Tokenizer) -> None:
    computed = 0
    bench = Bench(decoder, tokenizer, num_slots=2)
    original = bench.engine._compute_piece

    def counting(answer: object) -> None:
        nonlocal computed
        computed += 1
        original(answer)  # type: ignore[arg-type]

    bench.engine._compute_piece = counting  # type: ignore[method-assign, assignment]
    answers = bench.finish("hello", max_tokens=5, n=2)
    assert computed == 1
    bench.finish("hello", max_tokens=5, n=5)  # more copies than slots: the later ones may have to compute it again
    assert computed <= 4
    assert len({tuple(answer.tokens) for answer in bench.lines}) == 1  # greedy: all alike, copied or computed
    assert [bench.reason(answer) for answer in answers] == ["length"] * 2
    assert bench.num_used == 0


def test_slots_are_freed_and_clean(bench: Bench) -> None:
    bench.finish(*PROMPTS, max_tokens=10, n=3)
    assert bench.num_used == 0
    assert bench.cache.keys_LSGTK.count_nonzero() == 0
    assert bench.cache.values_LSGTK.count_nonzero() == 0


def test_cancelling_frees_the_slot_within_a_step(bench: Bench) -> None:
    running, waiting = bench.submit("hello", "world", max_tokens=300)
    late = bench.submit("later " * 20, max_tokens=100, n=7)
    bench.step()
    bench.step()
    used = bench.num_used
    running.is_cancelled = late[-1].is_cancelled = True
    bench.step()
    assert bench.num_used == used - 1
    assert late[-1] not in bench.engine.waiting
    waiting.is_cancelled = True
    for answer in late:
        answer.is_cancelled = True
    bench.step()
    assert bench.num_used == 0
    assert not bench.engine.has_work


def test_a_paused_answer_keeps_its_place_and_goes_on_unchanged(bench: Bench) -> None:
    [expected] = bench.finish("hello", max_tokens=20)
    paused, other = bench.submit("hello", "hello", max_tokens=20)
    bench.step()
    paused.is_paused = True
    bench.run()
    assert bench.reason(other) == "length"
    assert len(paused.tokens) < 20
    assert not bench.engine.has_work  # nothing to do is not a reason to spin
    paused.is_paused = False
    bench.run()
    assert paused.tokens == other.tokens == expected.tokens


def test_a_prompt_fills_the_context_to_its_last_token(bench: Bench) -> None:
    [answer] = bench.finish([65] * (CONTEXT - 5), max_tokens=None)
    assert len(answer.tokens) == 5
    assert bench.reason(answer) == "length"


class Faulty(torch.nn.Module):
    """Fails, or gives NaN, on what contains certain ids."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model, self.config, self.lm_head = model, model.config, model.lm_head

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, attend: object) -> torch.Tensor:
        if (ids == 1).any():
            raise RuntimeError("a kernel failed")
        hidden: torch.Tensor = self.model(ids, positions, attend)
        return torch.where((ids == 2)[..., None], math.nan, hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.logits(hidden)


def test_a_fault_ends_only_the_request_that_has_it(decoder: Transformer, tokenizer: Tokenizer) -> None:
    bench = Bench(Faulty(decoder), tokenizer)  # type: ignore[arg-type]
    [expected] = Bench(decoder, tokenizer).finish("hello", max_tokens=20)
    good = bench.submit("hello", max_tokens=20)
    bench.step()
    bad = [
        *bench.submit([65, 1, 66], max_tokens=20),  # fails in its prompt
        *bench.submit(
            "hello", max_tokens=20, logit_bias={1: 100}
        ),  # fails while decoding, in the batch of the good one
        *bench.submit("hello", max_tokens=20, logit_bias={2: 100}),  # its output becomes NaN
    ]
    bench.run()
    assert bench.errors(bad) == ["internal_error", "internal_error", "nonfinite_logits"]
    assert good[0].tokens == expected.tokens
    assert bench.num_used == 0
    [after] = bench.finish("hello", max_tokens=20)  # in a slot that a faulty one had
    assert after.tokens == expected.tokens


def test_echo_scores_the_prompt_as_training_would(bench: Bench, decoder: Transformer) -> None:
    for prompt in ("a", "To be, or not to be", LONG):
        [answer] = bench.finish(prompt, max_tokens=0, echo=True, logprobs=1)
        assert bench.text(answer) == prompt
        assert bench.reason(answer) == "length"
        scores = [line.scores for line in bench.lines[answer] if line.kind == "token"]
        ids = answer.prompt.ids
        expected = full_logprobs(decoder, ids)
        assert scores[0] is not None
        assert scores[0].logprob is None
        assert scores[0].top == ()
        targets = [expected[i, id].item() for i, id in enumerate(ids[1:])]
        assert [s.logprob for s in scores[1:] if s] == pytest.approx(targets, abs=1e-4)
        best = expected[:-1].max(-1).values.tolist()
        assert [s.top[0].logprob for s in scores[1:] if s] == pytest.approx(best, abs=1e-4)


def test_echo_and_an_answer(bench: Bench) -> None:
    [plain] = bench.finish("hello", max_tokens=5)
    echoed = bench.finish("hello", max_tokens=5, echo=True, n=2, logprobs=0)
    for answer in echoed:
        assert bench.text(answer) == "hello" + bench.text(plain)
        assert all(line.scores and line.scores.top == () for line in bench.lines[answer] if line.kind == "token")
