"""A tokenizer as a GGUF file has it, and as a Hugging Face directory has it; byte-level BPE only."""

import json
from pathlib import Path
from typing import Any

import gguf

from core.data.words import SPLIT
from core.errors import InvalidData

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""kinds of tokens: made from text; never made from text; added to the vocabulary later; filling the embedding"""
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS_FIRST = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}


def _by_regex(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**_BYTE_LEVEL, "use_regex": False}]}


_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": _DIGITS_FIRST,
    "starcoder": _DIGITS_FIRST,
    "refact": _DIGITS_FIRST,
    "llama-bpe": _by_regex(_LLAMA3_SPLIT),
    "qwen2": _by_regex(SPLIT),
}
"""what each value of `tokenizer.ggml.pre` stands for; the first that fits is written"""
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def read(facts: dict[str, Any], *, context_length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tokenizer.json` and `tokenizer_config.json` from the file's own vocabulary, merges and names.

    Raises:
        InvalidData: a kind of tokenizer that is not known.
    """
    kind, pre = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise InvalidData(f"the tokenizer {kind!r} is not known; known is 'gpt2' (byte-level BPE)", code="invalid_gguf")
    if pre not in PRE_TOKENIZERS:
        raise InvalidData(
            f"the pre-tokenizer {pre!r} is not known; known: {', '.join(PRE_TOKENIZERS)}", code="invalid_gguf"
        )
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    types: list[int] = facts["tokenizer.ggml.token_type"]
    added = [
        {
            "id": id,
            "content": tokens[id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for id, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    vocabulary = {token: id for id, token in enumerate(tokens) if types[id] != UNUSED}
    merges = [merge.split(" ", 1) for merge in facts.get("tokenizer.ggml.merges", [])]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": vocabulary,
            "merges": [merge for merge in merges if "".join(merge) in vocabulary],
        },
    }
    ids = {role: facts.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        **{f"{role}_token": tokens[id] for role, id in ids.items() if id is not None},
    }
    return tokenizer, config


def write(writer: gguf.GGUFWriter, directory: Path, *, vocab_size: int) -> None:
    """Describe the tokenizer of a Hugging Face directory, its chat template and the tokens that end an answer.

    Raises:
        InvalidData: it is no byte-level BPE, or cuts text in a way that has no name.
    """
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    config = _json(directory / "tokenizer_config.json")
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or content.get("normalizer"):
        raise InvalidData("only byte-level BPE tokenizers without a normalizer can be written", code="cannot_export")
    tokens, types = _tokens(content, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(content))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_token_merges(merges or [f"{tokens[0]} {tokens[1]}"])  # readers want one; this one makes nothing
    _add_roles(writer, {token: id for id, token in enumerate(tokens)}, config, _stops(directory))
    writer.add_add_bos_token(False)
    if template := _template(directory, config):
        writer.add_chat_template(template)


def _tokens(content: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    added = {token["id"]: token for token in content.get("added_tokens", [])}
    named = {id: token for token, id in content["model"]["vocab"].items()}
    named |= {id: token["content"] for id, token in added.items()}
    tokens, types = [], []
    for id in range(vocab_size):
        tokens.append(named.get(id, f"[unused {id}]"))
        if id in added:
            types.append(CONTROL if added[id]["special"] else USER_DEFINED)
        else:
            types.append(NORMAL if id in named else UNUSED)
    return tokens, types


def _pre(content: dict[str, Any]) -> str:
    """
    Raises:
        InvalidData: no name stands for the way that this tokenizer cuts text into words.
    """
    if not content["model"]["merges"]:
        return "gpt-2"  # each byte is a token, wherever words end
    for name, known in PRE_TOKENIZERS.items():
        if _steps(content.get("pre_tokenizer")) == _steps(known):
            return name
    raise InvalidData(
        f"no name in GGUF stands for this tokenizer's pre-tokenizer; names: {', '.join(PRE_TOKENIZERS)}",
        code="cannot_export",
    )


def _steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """What decides where text is cut."""
    found = pre_tokenizer or {}
    steps = found.get("pretokenizers", [found])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _add_roles(writer: gguf.GGUFWriter, ids: dict[str, int], config: dict[str, Any], stops: list[int]) -> None:
    """Ends first: what `eos` means to a reader is the end of an answer; one more may end a turn."""
    named = {role: ids.get(_content(config.get(f"{role}_token"))) for role in _ROLES}
    end = named["eos"] if named["eos"] is not None else next(iter(stops), None)
    for role, id in (named | {"eos": end, "bos": named["bos"] if named["bos"] is not None else end}).items():
        if id is not None:
            getattr(writer, f"add_{role}_token_id")(id)
    others = [id for id in stops if id != end]
    if others:
        writer.add_eot_token_id(others[0])


def _stops(directory: Path) -> list[int]:
    found = _json(directory / "generation_config.json").get("eos_token_id")
    return [found] if isinstance(found, int) else list(found or [])


def _template(directory: Path, config: dict[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
