"""What a preview shows, against tokens and weights written by hand."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.data import preview as previews
from core.data.encodings.encoder import Encoder, Encoding
from core.data.examples import TokenSequence
from core.data.formats import FormatName
from core.data.packing import Predicts
from core.data.preview import PreviewRequest, ShownRow, ShownSequence, preview
from core.data.renderer import Renderer
from core.data.tokenizer import Tokenizer
from core.errors import InvalidData
from core.loss import Specials
from core.objectives import Objective
from core.objectives.causal_lm import CausalLM
from core.objectives.dpo import DPO
from core.objectives.kto import KTO
from core.objectives.supervised import Supervised
from core.run_dir import InputFile

Write = Callable[[str, bytes | str | list[Any]], Path]
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}


def request(write: Write, format: FormatName, objective: Objective, rows: list[Any], **fields: Any) -> PreviewRequest:
    path = write("a.jsonl", rows)
    file = InputFile(id="file-a", path=path, filename=path.name, sha256="0", format=format)
    given = {"tokenizer": None, "model": "decoder", "sequence_length": 64, "limit": 5} | fields
    return PreviewRequest(file=file, objective=objective, **given)


def shown(row: ShownRow) -> ShownSequence:
    assert row.error is None
    return row.examples[0].sequences[0]


def texts(sequence: ShownSequence) -> list[tuple[str, bool]]:
    return [(piece.text, piece.learned) for piece in sequence.pieces]


def test_a_prompt_is_read_and_its_completion_is_learned(write: Write) -> None:
    found = preview(request(write, "prompt_completion", Supervised(), [{"prompt": "2+", "completion": "2=4"}]))
    assert (found.format, found.objective, found.labels, len(found.rows)) == ("prompt_completion", "supervised", (), 1)
    sequence = shown(found.rows[0])
    assert texts(sequence) == [("2+", False), ("2=4<|endoftext|>", True)]
    assert sequence.pieces[0].ids == tuple(b"2+")
    assert (sequence.num_tokens, sequence.num_learned, sequence.truncated) == (6, 4, False)


def test_a_chat_is_rendered_and_special_tokens_in_a_text_are_text(write: Write) -> None:
    rows = [CHAT, {"messages": [{"role": "user", "content": "<|im_end|>"}, CHAT["messages"][1]]}]
    first, second = preview(request(write, "chat", Supervised(), rows, sequence_length=128)).rows
    assert texts(shown(first)) == [
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", False),
        ("yo<|im_end|>", True),
        ("\n", False),
    ]
    assert shown(second).num_tokens - shown(first).num_tokens == len("<|im_end|>") - len("hi")


def test_the_start_of_a_text_is_never_learned(write: Write) -> None:
    (row,) = preview(request(write, "text", CausalLM(), [{"text": "ab"}])).rows
    assert texts(shown(row)) == [("<|endoftext|>", False), ("ab<|endoftext|>", True)]


def test_two_answers_stand_in_lanes_of_their_own(write: Write) -> None:
    (row,) = preview(request(write, "preference", DPO(), [{"prompt": "p", "chosen": "a", "rejected": "bc"}])).rows
    chosen, rejected = row.examples[0].sequences
    assert (chosen.name, rejected.name) == ("chosen", "rejected")
    assert texts(chosen) == [("p", False), ("a<|endoftext|>", True)]
    assert texts(rejected) == [("p", False), ("bc<|endoftext|>", True)]


def test_labels_of_the_whole(write: Write) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": good} for good in (True, False)]
    found = preview(request(write, "kto", KTO(), rows)).rows
    assert [row.examples[0].labels for row in found] == [(1.0,), (0.0,)]


def test_what_does_not_fit_is_cut_off_but_a_text_goes_on(write: Write) -> None:
    answer = {"prompt": "p", "completion": "c" * 20}
    sequence = shown(preview(request(write, "prompt_completion", Supervised(), [answer], sequence_length=8)).rows[0])
    assert (sequence.num_tokens, sequence.num_learned, sequence.truncated) == (22, 8, True)
    assert texts(sequence) == [("p", False), ("c" * 8, True)]
    sequence = shown(preview(request(write, "text", CausalLM(), [{"text": "c" * 20}], sequence_length=8)).rows[0])
    assert (sequence.num_tokens, sequence.num_learned, sequence.truncated) == (22, 8, False)


class Tagging(CausalLM):
    """Learns a name at some tokens."""

    predicts: ClassVar[Predicts] = ("same",)


class Hiding(Tagging):
    """Hides the second token and learns it."""

    def corrupt(self, ids: Any, targets: Any, weights: Any, random: Any, specials: Specials) -> None:
        ids[1] = specials.mask
        weights[:] = 0.0
        weights[1] = 1.0


def sequence_of(objective: Objective, sequence: TokenSequence, *labels: str) -> list[tuple[str, bool, str | None]]:
    asked = PreviewRequest.model_construct(objective=objective, sequence_length=8, seed=0)
    encoding = Encoding(kind="plain", model="encoder", labels=labels)
    with Renderer() as renderer:
        encoder = Encoder(Tokenizer.bytes(), renderer, encoding)
        found = previews._sequence("text", 0, sequence, asked, encoder, noise=(1, 0), goes_on=False)
    return [(piece.text, piece.learned, piece.target) for piece in found.pieces]


def test_tags_stand_at_the_tokens_that_learn_them() -> None:
    sequence = TokenSequence(list(b"a bc"), [1.0, 0.0, 1.0, 0.0], [2, 0, 1, 0])
    assert sequence_of(Tagging(), sequence, "B", "I", "O") == [
        *[("a", True, "O"), (" ", False, None), ("b", True, "I"), ("c", False, None)]
    ]


def test_what_is_hidden_stands_behind_the_mask() -> None:
    found = sequence_of(Hiding(), TokenSequence(list(b"abc"), [1.0] * 3))
    assert found == [("a", False, None), ("<|spare_0|>", True, "b"), ("c", False, None)]


def test_a_text_that_is_only_read_is_not_learned() -> None:
    assert sequence_of(Tagging(), TokenSequence(list(b"abc"), [1.0] * 3)) == [("abc", False, None)]


def test_bad_rows_say_why_and_hide_nothing(write: Write) -> None:
    rows = [{"prompt": "p"}, {"prompt": "p", "completion": "c"}, [1]]
    found = preview(request(write, "prompt_completion", Supervised(), rows)).rows
    assert [row.line for row in found] == [1, 2, 3]
    assert "'completion' is missing" in str(found[0].error)
    assert shown(found[1]).num_learned == 2
    assert "give a JSON object" in str(found[2].error)


def test_a_row_that_the_chat_template_refuses_does_not_hide_the_others(write: Write, tmp_path: Path) -> None:
    Tokenizer.bytes().save(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% if m.role == 'assistant' %}A:{{ m.content }}\n{% else %}Q:{{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    rows = [{"messages": [{"role": "system", "content": "s"}, *CHAT["messages"]]}, CHAT]
    found = preview(request(write, "chat", Supervised(), rows, tokenizer=tmp_path / "tokenizer")).rows
    assert "no system here" in str(found[0].error)
    assert texts(shown(found[1])) == [("Q:hi\nA:", False), ("yo\n", True)]


def test_a_preview_is_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * 300}] * 10
    assert len(preview(request(write, "text", CausalLM(), rows, limit=3)).rows) == 3
    monkeypatch.setattr(previews, "MAX_CHARACTERS", 500)
    monkeypatch.setattr(previews, "MAX_TOKENS", 50)
    found = preview(request(write, "text", CausalLM(), rows, sequence_length=1024)).rows
    assert len(found) == 2
    assert sum(len(piece.ids) for piece in shown(found[0]).pieces) == 50
    assert shown(found[0]).num_tokens == 302


def test_as_a_program(write: Write) -> None:
    """It answers in JSON, also where the tokenizer is nothing that can be read, and loads no torch."""

    def run(asked: PreviewRequest) -> Any:
        program = "import sys, core.data.preview as p; p.main(); assert 'torch' not in sys.modules"
        done = subprocess.run(
            [sys.executable, "-c", program], input=asked.model_dump_json().encode(), capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    asked = request(write, "text", CausalLM(), [{"text": "ab"}])
    assert run(asked) == preview(asked).model_dump(mode="json")
    broken = asked.model_copy(update={"tokenizer": asked.file.path.parent})
    with pytest.raises(InvalidData):
        preview(broken)
    assert run(broken)["error"]["code"] == "invalid_tokenizer"
