"""The program `python -m core.data.train_tokenizer <run_dir>`: learns a byte-level BPE vocabulary from the files of a
tokenizer job and leaves it in `<run_dir>/tokenizer`.

Byte pair encoding: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2), section 2.2.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
from tokenizers import decoders, models, trainers

from core import child
from core.data.check import Report, check_file
from core.data.examples import texts_of
from core.data.prepare import Progress
from core.data.reader import BadLine, parse, read_records
from core.data.special_tokens import SPECIALS
from core.data.tokenizer import BYTE_CHARACTERS, Tokenizer
from core.data.words import word_splitter
from core.events import Finished, Started, Warned
from core.job_spec import TokenizerSpec
from core.run_dir import SPEC, InputFile, RunDir

MAX_CHARACTERS = 4 << 30
SAMPLE_BYTES = 1 << 20
READING, COUNTING = 0.1, 0.6
"""shares of the time; the rest is merging, of which nothing is heard"""


def main(run_dir: RunDir, stop: child.Stop) -> None:
    spec = TokenizerSpec.model_validate(run_dir.read_json(SPEC))
    files = run_dir.inputs().files
    progress = Progress(run_dir, stop)
    run_dir.report(Started())
    progress.enter("reading")
    reports = [_check(file, progress) for file in files]
    progress.enter("training")
    corpus = Corpus(files, [source.weight for source in spec.data.train], reports, progress)
    tokenizer = learn_bpe(corpus, spec.vocab_size, stop)
    if tokenizer.vocab_size < spec.vocab_size:
        message = f"the text gives {tokenizer.vocab_size} tokens; {spec.vocab_size} were asked for"
        run_dir.report(Warned(code="small_vocabulary", message=message))
    tokenizer.save(run_dir.path / "tokenizer")
    metrics = {"vocab_size": float(tokenizer.vocab_size), "bytes_per_token": _bytes_per_token(tokenizer, corpus)}
    run_dir.report(Finished(path="tokenizer", metrics=metrics))


def _check(file: InputFile, progress: Progress) -> Report:
    """
    Raises:
        InvalidData: rows are wrong.
    """

    def at(fraction: float) -> None:
        progress.at(READING * fraction, f"reading {file.filename}")

    report = check_file(file.path, file.filename, file.format, progress=at)
    if (error := report.error()) is not None:
        raise error
    return report


class Corpus:
    """The texts to learn from, every source as often as its weight says; thinned evenly where it is too much."""

    def __init__(
        self, files: Sequence[InputFile], weights: Sequence[float], reports: Sequence[Report], progress: Progress
    ) -> None:
        self._files, self._progress = files, progress
        shown = sum(weight * report.num_characters for weight, report in zip(weights, reports, strict=True))
        self._shares = [weight * min(1.0, MAX_CHARACTERS / max(shown, 1)) for weight in weights]
        self._characters = max(1, min(shown, MAX_CHARACTERS))

    def __iter__(self) -> Iterator[str]:
        done = 0
        for file, share in zip(self._files, self._shares, strict=True):
            for nth, text in enumerate(_texts(file)):
                for _ in range(int((nth + 1) * share) - int(nth * share)):
                    done += len(text)
                    yield text
                    self._progress.at(READING + COUNTING * done / self._characters, f"counting {file.filename}")


def _texts(file: InputFile) -> Iterator[str]:
    for _, record in read_records(file.path, file.filename):
        assert not isinstance(record, BadLine), "checked before"
        yield from texts_of(parse(record, file.format))


def learn_bpe(corpus: Iterable[str], vocab_size: int, stop: child.Stop) -> Tokenizer:
    """Count words and merge pairs, in a thread: the library answers no signal while it merges."""
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = word_splitter()
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(BYTE_CHARACTERS),
        show_progress=False,
    )
    errors: list[BaseException] = []

    def learn() -> None:
        try:
            hf.train_from_iterator(corpus, trainer)
        except BaseException as error:  # raised again by the thread that waits
            errors.append(error)

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        stop.check()
    if errors:
        raise errors[0]
    return Tokenizer.of(hf)


def _bytes_per_token(tokenizer: Tokenizer, corpus: Corpus) -> float:
    """On the first texts of the corpus."""
    num_bytes = num_tokens = 0
    for text in corpus:
        num_bytes += len(text.encode())
        num_tokens += len(tokenizer.encode(text))
        if num_bytes >= SAMPLE_BYTES:
            break
    return num_bytes / max(num_tokens, 1)


if __name__ == "__main__":
    child.run(main)
