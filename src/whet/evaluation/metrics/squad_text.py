"""SQuAD's normal form of an answer, as NeMo's metric script uses it for exact match and F1.

Lower case, ASCII punctuation out, the words a, an and the out, white space squeezed: in this order, so that `U.S.A.`
becomes `usa` and the article of `"The"` is found.
"""

from __future__ import annotations

import re
import string

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """The normal form; may be empty."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
