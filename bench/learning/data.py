"""Real data in a folder, as rows in our formats. What a recipe needs and does not find, it says by name.

tinyshakespeare/tiny*.txt        chinese-poetry/*.json (arrays of {"paragraphs": […]})
multi30k/{train,val}.{en,de}.gz  agnews/test.csv (class, title, description)
nltk-sentence_polarity/*.zip     nltk-conll2000/*.zip
llamafactory-demo/*.json         gsm8k/{train,test}.jsonl
"""

import csv
import gzip
import io
import json
import random
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Rows to learn and rows to judge by."""

    train: list[Row]
    held_out: list[Row]


def split(rows: list[Row], held_out: int, *, most: int = 100_000) -> Split:
    random.Random(0).shuffle(rows)
    return Split(rows[held_out : held_out + most], rows[:held_out])


class Folder:
    """The data that recipes ask for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, pattern: str) -> Path:
        found = sorted(self.path.glob(pattern))
        return found[0] if found else sys.exit(f"{self.path} has no {pattern}; --help says what is expected there")

    def shakespeare(self) -> Split:
        text = self.find("tinyshakespeare/tiny*.txt").read_text()
        parts = [{"text": text[at : at + 2000]} for at in range(0, len(text), 2000)]
        return split(parts, 40)

    def tang(self) -> Split:
        rows = []
        for path in sorted(self.path.glob("chinese-poetry/*.json")):
            rows += [{"text": "\n".join(poem["paragraphs"])} for poem in json.loads(path.read_text())]
        return split([row for row in rows if row["text"]], 100)

    def translations(self) -> Split:
        def pairs(name: str) -> list[Row]:
            sides = [self.lines(f"multi30k/{name}.{language}.gz") for language in ("en", "de")]
            return [{"source": en, "target": de} for en, de in zip(*sides, strict=True)]

        return Split(pairs("train"), pairs("val")[:200])

    def lines(self, pattern: str) -> list[str]:
        return gzip.decompress(self.find(pattern).read_bytes()).decode().strip().split("\n")

    def news(self) -> Split:
        names = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
        with self.find("agnews/*.csv").open() as file:
            rows = [{"text": f"{title}. {text}", "label": names[kind]} for kind, title, text in csv.reader(file)]
        return split(rows, 600)

    def polarity(self) -> Split:
        archive = zipfile.ZipFile(self.find("nltk-sentence_polarity/*.zip"))
        rows = [
            {"text": line.strip(), "label": kind}
            for kind in ("pos", "neg")
            for line in archive.read(f"sentence_polarity/rt-polarity.{kind}").decode("latin-1").splitlines()
        ]
        return split(rows, 800)

    def chunks(self) -> Split:
        archive = zipfile.ZipFile(self.find("nltk-conll2000/*.zip"))

        def sentences(name: str) -> Iterator[Row]:
            for block in archive.read(f"conll2000/{name}.txt").decode().strip().split("\n\n"):
                words = [line.split() for line in block.splitlines()]
                yield {"tokens": [word[0] for word in words], "tags": [word[2] for word in words]}

        return Split(list(sentences("train")), list(sentences("test"))[:500])

    def questions(self) -> Split:
        """Who or what does it? The noun phrase before a verb phrase of the sentence (the chunks of CoNLL-2000)."""

        def asked(rows: list[Row]) -> list[Row]:
            found = []
            for row in rows:
                text, places = joined(row)
                for (kind, begin, end), (after, verb, stop) in pairwise(places):
                    if (kind, after) == ("NP", "VP") and text.count(text[begin:end]) == 1:
                        question = f"Who or what {text[verb:stop]}?"
                        found.append({"question": question, "context": text, "answer": text[begin:end]})
                        break
            return found

        chunks = self.chunks()
        return Split(asked(chunks.train), asked(chunks.held_out))

    def lengths_of_solutions(self) -> Split:
        """How many steps the solution of a problem takes."""
        rows = [json.loads(line) for line in self.find("gsm8k/train.jsonl").read_text().splitlines()]
        return split([{"text": r["question"], "score": float(r["answer"].count("\n"))} for r in rows], 600)

    def similar(self) -> Split:
        """A headline and what stands below it."""
        with self.find("agnews/*.csv").open() as file:
            rows = [{"anchor": title, "positive": text} for _, title, text in csv.reader(file)]
        return split(rows, 512)

    def problems(self) -> Split:
        rows = [json.loads(line) for line in self.find("gsm8k/train.jsonl").read_text().splitlines()]
        made = [{"prompt": r["question"] + "\n", "completion": re.sub("<<.*?>>", "", r["answer"])} for r in rows]
        return split(made, 100)

    def graded(self) -> Split:
        """Problems to answer; those to judge by were in no training data."""
        problems = self.problems()

        def asked(rows: list[Row]) -> list[Row]:
            return [{"messages": [{"role": "user", "content": row["prompt"]}], "note": "GSM8K"} for row in rows]

        return Split(asked(problems.train[:400]), asked(problems.held_out[:24]))

    def preferences(self) -> Split:
        return split(json.loads(self.find("llamafactory-demo/dpo_en*.json").read_text()), 100)

    def judged(self) -> Split:
        return split(json.loads(self.find("llamafactory-demo/kto_en*.json").read_text()), 100)

    def chats(self) -> Split:
        rows = json.loads(self.find("llamafactory-demo/alpaca_en*.json").read_text())
        return split(rows, 60)


def joined(row: Row) -> tuple[str, list[tuple[str, int, int]]]:
    """A sentence with spaces between its words, and its chunks: (kind, first character, behind the last)."""
    text, places = io.StringIO(), list[tuple[str, int, int]]()
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        text.write(" " if text.tell() else "")
        begin = text.tell()
        text.write(word)
        if tag.startswith("I-") and places:
            places[-1] = places[-1][0], places[-1][1], text.tell()
        elif tag.startswith("B-"):
            places.append((tag[2:], begin, text.tell()))
    return text.getvalue(), places


def chunks_of(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(kind, first word, behind the last) of each chunk of a tagging in B, I and O."""
    begin, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        name = tag[2:]
        if kind and (not tag.startswith("I-") or name != kind):
            yield kind, begin, place
            kind = ""
        if name and not kind:
            begin, kind = place, name
