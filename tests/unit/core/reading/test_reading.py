"""What models say of texts when they are asked: what training computes of the same examples, whatever the batch, and
long texts put together from windows."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.batches import validation_batches
from core.data.encodings import encode_examples
from core.data.encodings.encoder import Encoder
from core.data.examples import Conversation, Example, Labelled, Preference, Question, Scored, Similar, Tagged, Turn
from core.data.recipe import encoding_of
from core.data.renderer import Renderer
from core.data.token_dataset import write_token_dataset
from core.data.tokenizer import Tokenizer
from core.endpoints import CHAT, CLASSIFICATIONS, COMPLETIONS, EMBEDDINGS, check_serves, endpoints
from core.errors import InvalidRequest
from core.generation.packed_linear import pack_linears
from core.generation_request import Message, ServedModel
from core.models import families
from core.models.config import Dimensions, FamilyName, ModelConfig
from core.objectives import OBJECTIVES
from core.reading import read
from core.reading import reader as reader_module
from core.reading.answers import _best
from core.reading.reader import Interrupted, Reader
from core.reading_request import (
    Answers,
    ChatInput,
    CompletionInput,
    Embedding,
    Input,
    Labels,
    Masks,
    QuestionInput,
    Reading,
    ReadingRequest,
    Score,
    Tags,
    TextInput,
    TokenInput,
    WordInput,
)
from core.training.stats import Forward, stats_of
from core.training.stats.labels import pooled
from tests.unit.core.models.tiny import hidden_states, made

TOKENIZER = Tokenizer.bytes()
CONTEXT = 64
MODEL = ServedModel(id="m", storage_key="k", manifest_sha256="s")
LABELS = ("B-X", "I-X", "O")
every_family = pytest.mark.parametrize("family", ["bert", "roberta", "llama"])


def config_of(family: FamilyName, head: Any, **more: Any) -> ModelConfig:
    dims = Dimensions(hidden_size=32, num_layers=2, num_heads=4, context_length=CONTEXT)
    labels = LABELS if head in ("classifier", "tagger") else ()
    return families.shape(family, dims, vocab_size=TOKENIZER.vocab_size).with_head(head, labels=labels, **more)


def reader_of(family: FamilyName, head: Any, **more: Any) -> Reader:
    return Reader(made(config_of(family, head, **more)), TOKENIZER, Renderer())


def ask(reader: Reader, *inputs: Input, **fields: Any) -> list[Reading]:
    return list(read(reader, ReadingRequest(model=MODEL, inputs=inputs, **fields)).readings)


def trained_on(reader: Reader, path: Path, objective: dict[str, Any], examples: list[Example]) -> Any:
    """What the objective would read of these examples, in one batch."""
    spec = OBJECTIVES[objective["kind"]].model_validate(objective)
    kind = reader.config.kind
    encoding = encoding_of(
        spec,  # type: ignore[arg-type]
        model=kind,
        sequence_length=CONTEXT,
        seed=0,
        labels=reader.config.labels,
    )
    windows = [one for found in encode_examples(examples, Encoder(TOKENIZER, Renderer(), encoding)) for one in found]
    dataset = write_token_dataset(path, windows, vocab_size=TOKENIZER.vocab_size, divisible=False)
    [batch] = validation_batches(dataset, length=CONTEXT, packing="documents", sequences=99, predicts=spec.predicts)
    forward = Forward(reader.model, None, precision="fp32", attention="math", separator=TOKENIZER.separator)
    with torch.no_grad():
        if objective["kind"] == "contrastive":
            return pooled(forward, batch.lanes[0], batch), batch
        return stats_of(spec, forward, batch), batch


def in_order(values: Tensor, batch: Any) -> Tensor:
    """Of the examples as they were given."""
    documents = batch.documents_BE[batch.documents_BE >= 0]
    return values[documents.argsort()]


@every_family
def test_embeddings_are_those_of_training(tmp_path: Path, family: FamilyName) -> None:
    reader = reader_of(family, "embedding")
    texts = ["one", "another text", "a third, which is the longest"]
    trained, batch = trained_on(reader, tmp_path / "d", {"kind": "contrastive"}, [Similar(t, t) for t in texts])
    said = ask(reader, *(TextInput(text=text) for text in texts))
    found = vectors(said)
    torch.testing.assert_close(found, in_order(trained, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    alone = vectors([reading for text in texts for reading in ask(reader, TextInput(text=text))])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    as_ids = vectors(ask(reader, TokenInput(ids=tuple(TOKENIZER.encode(texts[1])))))
    torch.testing.assert_close(as_ids[0], found[1], rtol=1e-4, atol=1e-5)
    short = vectors(ask(reader, TextInput(text=texts[0]), dimensions=8))
    torch.testing.assert_close(short[0], torch.nn.functional.normalize(found[0, :8], dim=0), rtol=1e-4, atol=1e-5)


def vectors(said: list[Reading]) -> Tensor:
    raw = [base64.b64decode(reading.vector) for reading in said if isinstance(reading, Embedding)]
    return torch.tensor(np.array([np.frombuffer(one, "<f4") for one in raw]))


@pytest.mark.parametrize("head", ["embedding", "classifier", "tagger", "span", "score"])
def test_large_models_are_read_in_half_precision(head: str) -> None:
    reader = reader_of("llama", head)
    given = QuestionInput(question="a", context="b c") if head == "span" else TextInput(text="a b")
    whole, tokens = reader.of_tokens, [[1, 2, 3]]
    if head not in ("tagger", "span"):
        whole = reader.of_texts  # type: ignore[assignment]
    before = whole(tokens)[0]
    reader.model.bfloat16()
    pack_linears(reader.model)
    assert torch.nn.functional.cosine_similarity(before.flatten(), whole(tokens)[0].flatten(), dim=0) > 0.99
    assert len(ask(reader, given)) == 1


@every_family
@pytest.mark.parametrize("many", [False, True])
def test_labels_are_those_of_training(tmp_path: Path, family: FamilyName, many: bool) -> None:
    reader = reader_of(family, "classifier", many_labels=many)
    pairs = [("one", None), ("a text", "and its pair"), ("two", None)]
    examples: list[Example] = [Labelled(text, pair, (("O", 1.0),), many=many) for text, pair in pairs]
    objective = {"kind": "sequence_classification", "labels": "many" if many else "one"}
    stats, batch = trained_on(reader, tmp_path / "d", objective, examples)
    logits_NC = in_order(stats.logits_EC, batch)
    wanted = logits_NC.sigmoid() if many else logits_NC.softmax(-1)
    said = ask(reader, *(TextInput(text=text, pair=pair) for text, pair in pairs))
    for reading, probs_C in zip(said, wanted, strict=True):
        assert isinstance(reading, Labels)
        found = {label.label: label.score for label in reading.labels}
        torch.testing.assert_close(torch.tensor([found[label] for label in LABELS]), probs_C, rtol=1e-4, atol=1e-5)
        assert [label.score for label in reading.labels] == sorted(found.values(), reverse=True)


def scores(said: list[Reading]) -> Tensor:
    return torch.tensor([reading.score for reading in said if isinstance(reading, Score)])


@every_family
def test_scores_are_those_of_training(tmp_path: Path, family: FamilyName) -> None:
    reader = reader_of(family, "score")
    examples: list[Example] = [Scored("a", None, 1), Scored("b", "c", 0)]
    stats, batch = trained_on(reader, tmp_path / "d", {"kind": "regression"}, examples)
    said = scores(ask(reader, TextInput(text="a"), TextInput(text="b", pair="c")))
    torch.testing.assert_close(said, in_order(stats.logits_EC, batch)[:, 0], rtol=1e-4, atol=1e-5)


def test_a_reward_model_scores_what_it_learned_to_score(tmp_path: Path) -> None:
    reader = reader_of("llama", "score")
    turns = Turn("user", "2?"), Turn("assistant", "yes", weight=1.0)
    other = Turn("user", "2?"), Turn("assistant", "no", weight=1.0)
    preference = Preference(Conversation(turns), Conversation(other))
    stats, _ = trained_on(reader, tmp_path / "d", {"kind": "reward"}, [preference])
    messages = [(Message(role="user", content="2?"), Message(role="assistant", content=text)) for text in ("yes", "no")]
    said = [
        one.score for one in ask(reader, *(ChatInput(messages=chat) for chat in messages)) if isinstance(one, Score)
    ]
    torch.testing.assert_close(torch.tensor(said), torch.stack((stats.chosen_E[0], stats.rejected_E[0])))
    with pytest.raises(InvalidRequest, match="an answer of the assistant is what is scored"):
        ask(reader, ChatInput(messages=messages[0][:1]))
    with pytest.raises(InvalidRequest, match="this model reads texts"):
        ask(reader_of("bert", "score"), CompletionInput(prompt="2?", completion="yes"))


@every_family
def test_tags_are_those_of_training(tmp_path: Path, family: FamilyName) -> None:
    reader = reader_of(family, "tagger")
    words = ("He", "reckons", ",", "so")
    stats, _ = trained_on(reader, tmp_path / "d", {"kind": "token_classification"}, [Tagged(words, ("O",) * 4)])
    best = stats.logits_NC.softmax(-1).max(-1)
    text, listed = ask(reader, TextInput(text="He reckons,  so"), WordInput(words=words))
    assert isinstance(text, Tags)
    assert isinstance(listed, Tags)
    for reading in (text, listed):
        assert [word.text for word in reading.words] == list(words)
        assert [word.label for word in reading.words] == [LABELS[i] for i in best.indices.tolist()]
        said = torch.tensor([word.score or 0.0 for word in reading.words])
        torch.testing.assert_close(said, best.values, rtol=1e-4, atol=1e-5)
    assert [(word.start, word.end) for word in text.words] == [(0, 2), (3, 10), (10, 11), (13, 15)]
    assert [(word.start, word.end) for word in listed.words] == [(0, 2), (3, 10), (11, 12), (13, 15)]


def test_spans_are_words_that_tags_join_and_long_texts_have_no_limit() -> None:
    reader = reader_of("bert", "tagger")
    text = "北京 co-operates with U.S. firms, " * 12
    [said] = ask(reader, TextInput(text=text))
    assert isinstance(said, Tags)
    assert [word.text for word in said.words[:7]] == ["北", "京", "co-operates", "with", "U.S", ".", "firms"]
    assert len(said.words) == 12 * 8
    assert all(word.label is not None and text[word.start : word.end] == word.text for word in said.words)
    inside = {at for span in said.spans for at in range(span.first_word, span.last_word + 1)}
    assert inside == {at for at, word in enumerate(said.words) if word.label != "O"}
    for span in said.spans:
        first, last = said.words[span.first_word], said.words[span.last_word]
        assert (span.start, span.end, span.label) == (first.start, last.end, "X")
        assert span.text == text[span.start : span.end]


@every_family
def test_answers_are_those_of_training(tmp_path: Path, family: FamilyName) -> None:
    reader = reader_of(family, "span")
    context = "a b cc ddd"
    stats, _ = trained_on(reader, tmp_path / "d", {"kind": "question_answering"}, [Question("who", context, "cc", 4)])
    start_P, end_P = stats.start_logits_EP[0].softmax(-1), stats.end_logits_EP[0].softmax(-1)
    [said] = ask(reader, QuestionInput(question="who", context=context), max_answers=100)
    assert isinstance(said, Answers)
    before = int(stats.start_E[0]) - 4
    by_place = {
        (i, j + 1): float(start_P[before + i] * end_P[before + j])
        for i in range(len(context))
        for j in range(i, len(context))
    }
    none = float(start_P[0] * end_P[0])
    assert said.answers[0].score == pytest.approx(max(none, *by_place.values()), rel=1e-3)
    for answer in said.answers:
        if answer.start is None or answer.end is None:
            assert (answer.text, answer.score) == ("", pytest.approx(none, rel=1e-3))
        else:
            assert answer.text == context[answer.start : answer.end]
    assert len({answer.start for answer in said.answers}) > 3


def test_a_long_text_is_answered_from_its_windows() -> None:
    reader = reader_of("bert", "span")
    context = "".join(f"word {n} of many. " for n in range(20))
    [said] = ask(reader, QuestionInput(question="who", context=context), max_answers=5)
    assert isinstance(said, Answers)
    assert len(said.answers) == 5
    assert [answer.score for answer in said.answers] == sorted((a.score for a in said.answers), reverse=True)
    assert all(answer.text == context[answer.start : answer.end] for answer in said.answers if answer.start is not None)
    short = vars(ask(reader, QuestionInput(question="who", context=context), window=24)[0])["answers"]
    assert short != said.answers
    assert ask(reader, QuestionInput(question="who", context=context), max_answers=5, window=9999) == [said]
    assert _best("", [], 3).answers[0].text == ""


@torch.no_grad()
def test_hidden_tokens_are_what_the_model_predicts() -> None:
    """The forward pass of the whole text, at the places that stand open in it."""
    reader = reader_of("bert", "language_model")
    text = "ab[MASK]cd[MASK]"
    [said] = ask(reader, TextInput(text=text), max_answers=4)
    assert isinstance(said, Masks)
    assert [text[mask.start : mask.end] for mask in said.masks] == ["[MASK]"] * 2
    assert TOKENIZER.mask is not None
    ids = [TOKENIZER.class_token, *b"ab", TOKENIZER.mask, *b"cd", TOKENIZER.mask, TOKENIZER.separator]
    logits_TV = reader.model.logits(hidden_states(reader.model, torch.tensor([ids])))[0]
    for mask, place in zip(said.masks, (3, 6), strict=True):
        best = logits_TV[place].softmax(-1).topk(4)
        names = [TOKENIZER.token_bytes(id).decode("utf-8", "replace") for id in best.indices.tolist()]
        assert [guess.token for guess in mask.tokens] == names
        scores = torch.tensor([guess.score for guess in mask.tokens])
        torch.testing.assert_close(scores, best.values, rtol=1e-4, atol=1e-6)
    for input, code in (("no gap", "no_mask"), ("[MASK]" + "x" * 62, "context_length_exceeded")):
        with pytest.raises(InvalidRequest) as refused:
            ask(reader, TextInput(text=input))
        assert refused.value.code == code


def test_what_is_too_long_is_refused_or_cut() -> None:
    reader = reader_of("bert", "classifier")
    long = TextInput(text="x" * 100)
    with pytest.raises(InvalidRequest) as refused:
        ask(reader, TextInput(text="short"), long)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input.1")
    assert "has 100 tokens; this model reads 62 at most" in refused.value.message
    assert ask(reader, long, truncate=True) == ask(reader, TextInput(text="x" * 62))
    with pytest.raises(InvalidRequest, match="token id 9999 does not exist"):
        ask(reader_of("bert", "embedding"), TokenInput(ids=(9999,)))
    with pytest.raises(InvalidRequest, match=r"send \{question, context\}"):
        ask(reader_of("bert", "span"), TextInput(text="x"))
    with pytest.raises(InvalidRequest) as question:
        ask(reader_of("bert", "span"), QuestionInput(question="x" * 100, context="y"))
    assert question.value.param == "input.question"


def test_many_texts_are_read_in_batches_until_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of("bert", "embedding")
    texts = [TextInput(text="ab" * (i % 25 + 1)) for i in range(40)]
    whole = vectors(ask(reader, *texts))
    monkeypatch.setattr(reader_module, "BATCH_TOKENS", 128)
    torch.testing.assert_close(vectors(ask(reader, *texts)), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(Interrupted):
        ask(Reader(reader.model, TOKENIZER, Renderer(), lambda: True), *texts)


def test_who_serves_what() -> None:
    assert endpoints(config_of("llama", "language_model")) == (COMPLETIONS, CHAT)
    assert endpoints(config_of("llama", "language_model"), has_chat_template=False) == (COMPLETIONS,)
    heads = ("span", "score", "language_model")
    for head, endpoint in (("embedding", EMBEDDINGS), *((head, CLASSIFICATIONS) for head in heads)):
        assert endpoints(config_of("bert", head)) == (endpoint,)
    with pytest.raises(InvalidRequest) as refused:
        check_serves(config_of("bert", "tagger"), COMPLETIONS)
    assert refused.value.code == "model_cannot_generate"
    assert refused.value.hint == "POST /v1/classifications serves it."
    with pytest.raises(InvalidRequest) as trained:
        check_serves(config_of("bert", "language_model"), EMBEDDINGS)
    assert "objective contrastive" in str(trained.value.hint)
