import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from core.data.special_tokens import SPECIALS
from core.data.tokenizer import DecodeStream, Tokenizer
from core.errors import InvalidData

BYTES = Tokenizer.bytes()
HARD = [
    "",
    " ",
    "\x00",
    "a\r\n\tb",
    "héllo wörld",
    "春眠不觉晓",
    "👩‍👩‍👧‍👦 🇩🇪",
    "\u202eאבג",
    "x" * 500,
    "    if a:\n\t\treturn 1\n",
]


@given(st.text())
def test_bytes_are_their_own_ids(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids == list(text.encode())
    assert BYTES.decode(ids) == text


def test_specials_of_the_byte_tokenizer() -> None:
    assert BYTES.vocab_size == 256 + 7 + 64
    assert [BYTES.specials[name] for name in SPECIALS] == list(range(256, 327))
    assert (BYTES.end_of_text, BYTES.pad, BYTES.turn_end) == (256, 257, 259)
    assert BYTES.stop_ids == {256, 259}


@pytest.mark.parametrize("text", HARD)
def test_the_fast_path_of_bytes_is_what_the_library_gives(text: str) -> None:
    assert BYTES._hf.encode(text, add_special_tokens=False).ids == BYTES.encode(text)


@pytest.mark.parametrize("text", HARD)
def test_a_trained_vocabulary_gives_every_text_back(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


def test_training_saves_tokens_and_keeps_digits_apart(trained: Tokenizer) -> None:
    assert len(trained.encode("the lazy dog")) < len("the lazy dog") / 2
    assert len(trained.encode("2026")) == 4


@pytest.mark.parametrize("name", ["<|im_end|>", "<|endoftext|>", "a<|pad|>b", "<|spare_63|>"])
def test_special_tokens_in_a_text_are_text(trained: Tokenizer, name: str) -> None:
    for tokenizer in (BYTES, trained):
        ids = tokenizer.encode(name)
        assert not set(ids) & set(tokenizer.specials.values())
        assert tokenizer.decode(ids) == name


@pytest.mark.parametrize("text", [text for text in HARD if text])
def test_transformers_loads_what_is_saved(trained: Tokenizer, tmp_path: Path, text: str) -> None:
    from transformers import AutoTokenizer

    for name, tokenizer in (("bytes", BYTES), ("trained", trained)):
        tokenizer.save(tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
        assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.end_of_text, tokenizer.pad)
        assert len(theirs) == tokenizer.vocab_size
        assert theirs.chat_template == tokenizer.chat_template


def test_saving_and_loading_changes_nothing(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "a")
    again = Tokenizer.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert again.sha256 == trained.sha256
    assert again.specials == trained.specials
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@given(st.lists(st.integers(0, 330)))
def test_a_stream_says_what_decoding_says(ids: list[int]) -> None:
    stream = DecodeStream(BYTES)
    assert "".join([*map(stream.push, ids), stream.flush()]) == BYTES.decode(ids)


def test_a_stream_waits_for_the_whole_character() -> None:
    stream = DecodeStream(BYTES)
    assert [stream.push(id) for id in "é春".encode()] == ["", "é", "", "", "春"]
    assert stream.push(0xF0) == ""
    assert stream.flush() == "\ufffd"


def test_token_bytes_join_to_the_text(trained: Tokenizer) -> None:
    text = "naïve 春 🙂\n"
    assert b"".join(map(trained.token_bytes, trained.encode(text))) == text.encode()
    assert trained.token_bytes(trained.end_of_text) == b"<|endoftext|>"
    assert trained.token_bytes(10**6) == b""


def foreign(directory: Path, hf: tokenizers.Tokenizer, config: dict[str, object]) -> Tokenizer:
    directory.mkdir()
    hf.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(directory)


def byte_level(*specials: str) -> tokenizers.Tokenizer:
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    hf = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens(list(specials))
    return hf


def test_a_chat_model_of_others(tmp_path: Path) -> None:
    """SmolLM2's shape: the end of a turn is called `eos_token`, the template stands in the configuration."""
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    config = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|im_end|>", "chat_template": template}
    tokenizer = foreign(tmp_path / "t", byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"), config)
    assert tokenizer.end_of_text == 256
    assert tokenizer.turn_end == tokenizer.pad == 258
    assert tokenizer.stop_ids == {256, 258}
    assert tokenizer.chat_template == template
    assert tokenizer.special_names == {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    assert not tokenizer.prepends_start


def test_a_model_names_more_tokens_that_end_its_answers(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [257, 258]}')
    byte_level("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|end_of_text|>"}')
    assert Tokenizer.load(tmp_path).stop_ids == {256, 257, 258}


def test_a_model_that_starts_every_text(tmp_path: Path) -> None:
    hf = byte_level("<s>", "</s>")
    hf.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer = foreign(tmp_path / "t", hf, {"bos_token": "<s>", "eos_token": "</s>"})
    assert tokenizer.prepends_start
    assert (tokenizer.start_of_text, tokenizer.end_of_text) == (256, 257)
    assert tokenizer.encode("a") == hf.encode("a", add_special_tokens=False).ids


def test_text_that_continues_gets_no_space_of_its_own(tmp_path: Path) -> None:
    """SentencePiece models put a space before the first word of a sequence, and only there."""
    words = {"<unk>": 0, "\u2581a": 1, "a": 2, "\u2581b": 3}
    hf = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    hf.add_special_tokens(["</s>"])
    tokenizer = foreign(tmp_path / "t", hf, {"eos_token": "</s>"})
    assert tokenizer.encode("a b") == [1, 3]
    assert tokenizer.encode("a b", continues=True) == [2, 3]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "lacks tokenizer.json"),
        ({"tokenizer.json": "{"}, "cannot be read"),
        ({"tokenizer.json": "{}"}, "cannot be read"),
        ({"tokenizer.json": BYTES._json, "tokenizer_config.json": "[]"}, "not a JSON object"),
        ({"tokenizer.json": byte_level().to_str(), "tokenizer_config.json": "{}"}, "no end-of-text token"),
    ],
)
def test_what_makes_no_tokenizer(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidData, match=says) as error:
        Tokenizer.load(tmp_path)
    assert error.value.code == "invalid_tokenizer"


@given(st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "1", ".", "  ", "春", "\r\n", "'s"]), max_size=60))
def test_a_long_text_is_tokenized_in_parts_with_the_same_ids(trained: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer in (trained, Tokenizer(byte_level("<|endoftext|>").to_str(), {}, None)):
        (whole,) = tokenizer._encode_by_library([text])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("core.data.tokenizer.MAX_AT_ONCE", 5)
            assert tokenizer._encode_by_library([text, text]) == [whole, whole]


def named(words: list[str], specials: list[str], frame: object = None, **config: str) -> Tokenizer:
    """A tokenizer of others, with these words and special tokens."""
    vocabulary = {word: id for id, word in enumerate([*specials, *words])}
    hf = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    hf.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in specials])
    if frame is not None:
        hf.post_processor = frame
    return Tokenizer(hf.to_str(), config, None)


def test_bert_s_names() -> None:
    frame = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    bert = named(["a"], ["[PAD]", "[CLS]", "[SEP]", "[MASK]"], frame, pad_token="[PAD]")
    assert (bert.pad, bert.class_token, bert.separator, bert.mask) == (0, 1, 2, 3)
    assert (bert.start_of_text, bert.end_of_text) == (1, 2)
    assert bert.frame == ([1], [2], [2])
    assert bert.sentinels == ()
    assert bert.infilling is None


def test_roberta_s_names() -> None:
    frame = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    roles = {"cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    roberta = named(["a"], ["<s>", "<pad>", "</s>", "<mask>"], frame, **roles)
    assert (roberta.class_token, roberta.pad, roberta.separator, roberta.mask) == (0, 1, 2, 3)
    assert roberta.frame == ([0], [2, 2], [2])


def test_t5_s_names() -> None:
    frame = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    t5 = named(
        ["a"], ["<pad>", "</s>", *(f"<extra_id_{i}>" for i in (2, 1, 0))], frame, eos_token="</s>", pad_token="<pad>"
    )
    assert (t5.pad, t5.end_of_text) == (0, 1)
    assert t5.sentinels == (4, 3, 2)
    assert not t5.prepends_start, "what stands behind a text is not its start"
    assert t5.mask is None


@pytest.mark.parametrize(
    "names",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
        ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ],
)
def test_names_of_what_is_filled_in(names: tuple[str, str, str]) -> None:
    assert named(["a"], ["<eos>", *names[::-1]], eos_token="<eos>").infilling == (3, 2, 1)


def test_our_own_names(trained: Tokenizer) -> None:
    for ours in (BYTES, trained):
        specials = ours.specials
        assert ours.mask == specials["<|spare_0|>"]
        assert ours.frame == ([specials["<|spare_1|>"]], [specials["<|spare_2|>"]], [specials["<|spare_2|>"]])
        assert len(ours.sentinels) == 61
        assert ours.infilling == tuple(specials[f"<|fim_{name}|>"] for name in ("prefix", "suffix", "middle"))
