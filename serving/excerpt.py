# SPDX-License-Identifier: Apache-2.0
"""What a sentence may quote of a request: a few characters of a value, in one clean line.

A message that carries back what it was sent fills logs and leaks a caller's data. This module knows
text alone.
"""

from __future__ import annotations

import re
from reprlib import Repr
from typing import Any

QUOTED = 60
"""Most characters of one quoted value."""
SENTENCE = 300
"""Most characters of one answer."""
_LONG_WORD = re.compile(rf"\S{{{QUOTED + 1},}}")

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = QUOTED
_repr.maxlevel = 2
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 3


def excerpt(value: Any) -> str:
    """How a message quotes `value`: its repr, cut to QUOTED characters, without line breaks."""
    return _cut(_repr.repr(value), QUOTED)


def sentence(text: str) -> str:
    """`text` in one line of printable characters, its long words and its end cut off."""
    line = "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(_LONG_WORD.sub(lambda word: _cut(word[0], QUOTED), line).split())
    return _cut(words, SENTENCE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
