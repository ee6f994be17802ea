"""Answers to questions, made comparable: case, punctuation, articles and white space do not count.

Rajpurkar et al. 2016, "SQuAD", arXiv:1606.05250. Each Chinese character is a word, as in CMRC 2018 (Cui et al. 2019,
arXiv:1810.07366).
"""

import re
import unicodedata

from core.metrics.tokenization import has_chinese

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def answer_words(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if not _is_punctuation(c))
    kept = _ARTICLE.sub(" ", kept)
    return "".join(f" {c} " if has_chinese(c) else c for c in kept).split()


def _is_punctuation(character: str) -> bool:
    """ASCII's symbols, and punctuation of any script."""
    if character.isascii():
        return character.isprintable() and not (character.isalnum() or character == " ")
    return unicodedata.category(character).startswith("P")
