"""Words of a text, as the metrics of the field cut them.

`thirteen_a` is mteval-v13a of the Workshop on Machine Translation, `zh` the same with every Chinese character a word:
the tokenizations "13a" and "zh" of Post 2018, "A Call for Clarity in Reporting BLEU Scores", arXiv:1804.08771. BLEU
scores compare only under the same one, to the letter, so its odd ranges are kept.
"""

import re
from collections.abc import Callable

Tokenize = Callable[[str], list[str]]

_SYMBOL = re.compile(r"""[!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~]""")
# A match takes the neighbour with it, so the second of two points is not seen by the rule that took the first.
_POINT_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_POINT_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_ZH_CHARACTER = re.compile(
    "[\u2001-\u2a6d\u2e80-\u2eff\u2f00-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u33ff"
    "\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]"
)
_WORD = re.compile(f"[a-z0-9]+|[{_IDEOGRAPHS}]")


def thirteen_a(text: str) -> list[str]:
    """Symbols stand alone; points and commas too, but for those within numbers."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return _western(f" {text} ")


def zh(text: str) -> list[str]:
    """Chinese characters and their punctuation stand alone; the rest is cut as `thirteen_a` cuts it."""
    return _western(_ZH_CHARACTER.sub(r" \g<0> ", text.strip()))


def words(text: str) -> list[str]:
    """Runs of ASCII letters and digits in lower case, and single Chinese characters. All else separates.

    Equal to the words of ROUGE 1.5.5 (Lin 2004) where there is no Chinese.
    """
    return _WORD.findall(text.lower())


def has_chinese(text: str) -> bool:
    return _IDEOGRAPH.search(text) is not None


def tokenize_like(reference: str) -> Tokenize:
    """`zh` where the reference has Chinese characters, else `thirteen_a`."""
    return zh if has_chinese(reference) else thirteen_a


def _western(text: str) -> list[str]:
    text = _SYMBOL.sub(r" \g<0> ", text)
    text = _POINT_AFTER_OTHER.sub(r"\1 \2 ", text)
    text = _POINT_BEFORE_OTHER.sub(r" \1 \2", text)
    return _DASH_AFTER_DIGIT.sub(r"\1 \2 ", text).split()
