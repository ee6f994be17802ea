"""`Tokenizer`: text to ids and back. The files are those of the Hugging Face ecosystem, so `AutoTokenizer` reads
ours and this class reads theirs: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
`chat_template.jinja`.

Text never becomes a special id: `encode("<|im_end|>")` gives the ids of those ten characters.
"""

import builtins
import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from core.data.chatml import CHATML
from core.data.special_tokens import (
    CLASSES,
    END_OF_TEXT,
    END_OF_TEXTS,
    INFILLINGS,
    MASKS,
    PAD,
    SENTINELS,
    SEPARATORS,
    SPECIALS,
    TURN_ENDS,
)
from core.data.words import WordCache, splits_into_words
from core.errors import InvalidData

WORTH_CACHING = 1 << 16
MAX_AT_ONCE = 1 << 20
_LINE_END = re.compile(r"(?<=\S)\n(?=[^\W\d_])")


class Tokenizer:
    """Immutable. Made by `load` or `bytes`."""

    def __init__(
        self, tokenizer_json: str, config: dict[str, Any], chat_template: str | None, stops: Iterable[int] = ()
    ) -> None:
        self._json = tokenizer_json
        self._config = config
        self.chat_template = chat_template
        self._hf = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._hf.no_truncation()
        self._hf.no_padding()
        self._hf.encode_special_tokens = True  # special tokens in a text are text
        self._continuation = _continuation(tokenizer_json) or self._hf
        self.specials: dict[str, int] = {
            token.content: id for id, token in self._hf.get_added_tokens_decoder().items() if token.special
        }
        """special tokens by their string"""
        self.vocab_size = 1 + max(self._hf.get_vocab(with_added_tokens=True).values())
        self.sha256 = hashlib.sha256(tokenizer_json.encode()).hexdigest()
        eos, pad = self._named("eos_token"), self._named("pad_token")
        ends = self._first_of(END_OF_TEXTS), eos, self._role("sep_token", SEPARATORS)  # BERT has only the last
        end_of_text = next((id for id in ends if id is not None), None)
        if end_of_text is None:
            raise InvalidData(
                "the tokenizer has no end-of-text token",
                code="invalid_tokenizer",
                hint="name one as `eos_token` in tokenizer_config.json",
            )
        self.end_of_text: int = end_of_text
        self.pad: int = pad if pad is not None else self.specials.get(PAD, end_of_text)
        self.mask = self._role("mask_token", MASKS)
        """stands for a token that is to be guessed; None where there is no such token"""
        self.turn_end: int | None = self._find_turn_end(eos)
        self.stop_ids = frozenset(id for id in (end_of_text, eos, self.turn_end, *stops) if id is not None)
        """tokens that end a generation"""

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read a directory of ours or of Hugging Face's.

        Raises:
            InvalidData: a file is missing or does not make a tokenizer.
        """
        try:
            tokenizer_json = (directory / "tokenizer.json").read_text(encoding="utf-8")
            config = _read_json(directory / "tokenizer_config.json")
            for name, token in _read_json(directory / "special_tokens_map.json").items():
                config.setdefault(name, token)
            template = directory / "chat_template.jinja"
            chat_template = template.read_text(encoding="utf-8") if template.exists() else _template_of(config)
            stops = _read_json(directory / "generation_config.json").get("eos_token_id") or []
            return cls(tokenizer_json, config, chat_template, [stops] if isinstance(stops, int) else stops)
        except FileNotFoundError as error:
            raise InvalidData(f"the tokenizer lacks {Path(error.filename).name}", code="invalid_tokenizer") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidData(f"the tokenizer cannot be read: {error}", code="invalid_tokenizer") from error
        except InvalidData:
            raise
        except Exception as error:  # the Rust library raises bare Exception for a file it cannot read
            raise InvalidData(f"the tokenizer cannot be read: {error}", code="invalid_tokenizer") from error

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """Id = byte for the first 256, then the specials: needs no training and knows every text."""
        return cls(_byte_tokenizer_json(), _own_config(), CHATML)

    @classmethod
    def of(cls, hf: tokenizers.Tokenizer) -> "Tokenizer":
        """A tokenizer made here, which has `SPECIALS`."""
        return cls(hf.to_str(pretty=True), _own_config(), CHATML)

    def has_ids_of(self, other: "Tokenizer") -> bool:
        """Both mean the same tokens by the same ids; how they cut texts may differ."""
        ours, theirs = (tokenizer._hf.get_vocab(with_added_tokens=True) for tokenizer in (self, other))
        return ours == theirs

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in self._config.items() if name != "chat_template"}
        named = {
            name: value for name, value in config.items() if name.endswith("_token") and isinstance(value, str | dict)
        }
        _write(directory / "tokenizer.json", self._json)
        _write(directory / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2))
        _write(directory / "special_tokens_map.json", json.dumps(named, ensure_ascii=False, indent=2))
        if self.chat_template is not None:
            _write(directory / "chat_template.jinja", self.chat_template)

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of the text, nothing added. `continues`: more text or a special token stands before it."""
        return self.encode_batch([text], continues=continues)[0]

    def encode_batch(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        """`encode` for many, on all threads that the process may use."""
        if self._is_bytes:
            return [list(text.encode()) for text in texts]
        if self._words is not None and sum(map(len, texts)) >= WORTH_CACHING:
            return self._words.encode_batch(texts)
        return self._encode_by_library(texts, continues=continues)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """`encode` for many, with the characters that each id comes from (see `core.data.spans`)."""
        return list(self._hf.encode_batch(list(texts), add_special_tokens=False))

    def _encode_by_library(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        if len(texts) > 1 and any(len(text) > MAX_AT_ONCE for text in texts):
            return [self._encode_by_library([text], continues=continues)[0] for text in texts]
        if texts and len(texts[0]) > MAX_AT_ONCE:
            return [self._encode_in_parts(texts[0], continues=continues)]
        hf = self._continuation if continues else self._hf
        return [encoding.ids for encoding in hf.encode_batch_fast(texts, add_special_tokens=False)]

    def _encode_in_parts(self, text: str, *, continues: bool) -> list[int]:
        """The library takes a hundred times the text's size in memory; no token reaches over a line's end."""
        ids: list[int] = []
        for part in _parts(text, MAX_AT_ONCE):
            hf = self._continuation if continues or ids else self._hf
            ids += hf.encode(part, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Bytes that are no UTF-8 become U+FFFD."""
        if self._is_byte_level:
            kept = (id for id in ids if not (skip_special and id in self._special_ids))
            return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")
        return str(self._hf.decode(list(ids), skip_special_tokens=skip_special))

    def token_bytes(self, id: int) -> builtins.bytes:
        """What the token stands for in the text; a special token gives its name. Empty for ids that nothing has."""
        token = self._hf.id_to_token(id)
        if token is None:
            return b""
        if id in self._added_ids:
            return token.encode()
        if self._is_byte_level:
            return bytes(_BYTES[character] for character in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):  # byte fallback
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    def is_special(self, id: int) -> bool:
        return id in self._special_ids

    @cached_property
    def start_of_text(self) -> int:
        """What stands before a document: the tokenizer's own start token, else end-of-text (of the document before)."""
        return next(iter(self._added_at_start), self.end_of_text)

    @property
    def prepends_start(self) -> bool:
        """The tokenizer's authors put `start_of_text` before every text (Llama), prompts included."""
        return bool(self._added_at_start)

    @cached_property
    def class_token(self) -> int:
        """What stands before a text that an encoder reads."""
        token = self._role("cls_token", CLASSES)
        return self.start_of_text if token is None else token

    @cached_property
    def separator(self) -> int:
        """What stands behind a text that an encoder reads, and so between two."""
        token = self._role("sep_token", SEPARATORS)
        return self.end_of_text if token is None else token

    @cached_property
    def sentinels(self) -> tuple[int, ...]:
        """Tokens that mark the holes of a text, the first hole's first; may be none."""
        families = ([self.specials[name] for name in names if name in self.specials] for names in SENTINELS)
        return tuple(next(filter(None, families), ()))

    @cached_property
    def infilling(self) -> tuple[int, int, int] | None:
        """Tokens that stand before prefix, suffix and middle, where the tokenizer has them."""
        for prefix, suffix, middle in INFILLINGS:
            if {prefix, suffix, middle} <= self.specials.keys():
                return self.specials[prefix], self.specials[suffix], self.specials[middle]
        return None

    @cached_property
    def frame(self) -> tuple[list[int], list[int], list[int]]:
        """What an encoder finds before a text, between two of them, and behind the last: as the tokenizer's authors
        put it, where they do, else class token, separator, separator."""
        one, two = self._hf.encode("").ids, self._hf.encode("", "").ids
        if len(one) == 2 and len(two) > 2:
            return two[:1], two[1:-1], two[-1:]
        return [self.class_token], [self.separator], [self.separator]

    @cached_property
    def special_names(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, … as a chat template sees them."""
        return {name: text for name in self._config if name.endswith("_token") and (text := self._text_of(name))}

    @cached_property
    def strips(self) -> dict[str, tuple[bool, bool]]:
        """Special tokens that swallow the white space on their left or right."""
        tokens = self._hf.get_added_tokens_decoder().values()
        return {t.content: (t.lstrip, t.rstrip) for t in tokens if t.special and (t.lstrip or t.rstrip)}

    @cached_property
    def _added_at_start(self) -> list[int]:
        one = self._hf.encode("a", add_special_tokens=True)
        return list(one.ids[: int(one.special_tokens_mask[0] == 1)]) if one.ids else []

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._hf.get_added_tokens_decoder())

    @cached_property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self._json).get("decoder"))

    @cached_property
    def _words(self) -> WordCache | None:
        """Only for what splits text as tokenizers made here do."""
        added = self._hf.get_added_tokens_decoder().values()
        ours = splits_into_words(self._hf) and all(token.special for token in added)
        return WordCache(self._encode_by_library) if ours else None

    @cached_property
    def _is_bytes(self) -> bool:
        return self._json == _byte_tokenizer_json()

    def _text_of(self, name: str) -> str | None:
        token = self._config.get(name)
        return token.get("content") if isinstance(token, dict) else token

    def _named(self, name: str) -> int | None:
        text = self._text_of(name)
        return None if text is None else self._hf.token_to_id(text)

    def _first_of(self, names: Iterable[str]) -> int | None:
        return next((self.specials[name] for name in names if name in self.specials), None)

    def _role(self, role: str, names: Iterable[str]) -> int | None:
        """The token that the configuration gives the role, else the first that has one of the names."""
        named = self._named(role)
        return self._first_of(names) if named is None else named

    def _find_turn_end(self, eos: int | None) -> int | None:
        if self.chat_template is None:
            return None
        for name in TURN_ENDS:
            if name in self.specials and name in self.chat_template:
                return self.specials[name]
        return eos


class DecodeStream:
    """Text of a growing sequence of ids. Bytes wait until their character is whole."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        return self._decoder.decode(b"", final=True)


def _byte_characters() -> str:
    """One printable character for each byte, as byte-level BPE writes its vocabulary (Radford et al. 2019, GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return "".join(chr(b if b in set(printable) else next(others)) for b in range(256))


BYTE_CHARACTERS = _byte_characters()
_BYTES = {character: i for i, character in enumerate(BYTE_CHARACTERS)}


@cache
def _byte_tokenizer_json() -> str:
    vocab = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
    hf = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    hf.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    hf.decoder = tokenizers.decoders.ByteLevel()
    hf.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return str(hf.to_str(pretty=True))


def _parts(text: str, size: int) -> list[str]:
    """Cut at line ends that stand between a word and a letter, about every `size` characters."""
    cuts = [0]
    for match in _LINE_END.finditer(text):
        if match.end() - cuts[-1] >= size:
            cuts.append(match.end())
    return [text[a:b] for a, b in pairwise([*cuts, len(text)])]


def _continuation(tokenizer_json: str) -> tokenizers.Tokenizer | None:
    """The same tokenizer for text that is not the first of its sequence; None if that makes no difference.

    Only `Metaspace` with `prepend_scheme: first` (SentencePiece models) asks where a text stands.
    """
    if '"prepend_scheme"' not in tokenizer_json:
        return None
    content = json.loads(tokenizer_json)
    parts = (content.get("pre_tokenizer") or {}).get("pretokenizers") or [content.get("pre_tokenizer") or {}]
    for part in parts:
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
    hf = tokenizers.Tokenizer.from_str(json.dumps(content))
    hf.no_truncation()
    hf.no_padding()
    hf.encode_special_tokens = True
    return hf


def _own_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "mask_token": MASKS[-1],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000_000,
    }


def _template_of(config: dict[str, Any]) -> str | None:
    """Older directories keep the template in tokenizer_config.json, some several by name."""
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
