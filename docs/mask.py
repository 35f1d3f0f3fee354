# SPDX-License-Identifier: Apache-2.0
"""Draws docs/pictures/mask.svg: what each token of a request sees, by the kernels' specification.

Run as `python docs/mask.py`; the same source makes the same bytes. It draws what `context_mask` and
`candidate_mask` say of a small example, and decides nothing about who sees whom.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from kernels.shared_context_attention.reference import candidate_mask, context_mask
from kernels.shared_context_attention.seqlens import SeqlenInfo

PICTURE = Path(__file__).resolve().parent / "pictures" / "mask.svg"

KNOWN = (0, 1, 1, 3)
"""The example: how many impressions were known when each impression was served."""
HISTORY = 2 * len(KNOWN)
CANDIDATES = 3
NAMES = [f"{token}{i + 1}" for i in range(len(KNOWN)) for token in "XA"]
NAMES += [f"C{i + 1}" for i in range(CANDIDATES)]

LEFT, TOP, STEP, GAP = 164, 124, 34, 12
"""Where the cells begin, from one to the next, and between history and candidates, in pixels."""
WORDS = 606
"""Where the words beside the cells begin."""

LEGEND = {
    "A post, and what the member did with it": {
        "known": "known when the impression was served",
        "own": "itself; an action sees its own post too",
        "late": "served before, but not yet in the log",
        "later": "later, or a candidate: never seen",
    },
    "A candidate": {
        "whole": "the whole history",
        "self": "itself",
        "apart": "another candidate: never seen",
    },
}
TOKENS = "X is a post, A what the member did with it, C a candidate."
NOTES = (
    "Impression 3 was served before impression 2",
    "was in the log, so row X3 leaves it out.",
    "Row X4 sees what a candidate saw at that time:",
    "training and serving give it the same score.",
)

STYLE = """
  text { font: 13px Inter, system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #1c2024; }
  .title { font-size: 19px; font-weight: 700; }
  .token { font-weight: 650; }
  .top { text-anchor: middle; }
  .side { text-anchor: end; }
  .muted { fill: #5a626b; }
  .page { fill: #fcfcfb; stroke: #e3e5e8; }
  .known { fill: #a9c6f5; }
  .own { fill: #2563c9; }
  .late { fill: url(#stripes); stroke: #8aa4cc; }
  .later { fill: #edeff2; }
  .whole { fill: #f3cf9f; }
  .self { fill: #c2741c; }
  .apart { fill: #fcfcfb; stroke: #dba766; }
  .cross, .stripe { fill: none; stroke: #c2741c; stroke-width: 1.5; }
  .stripe { stroke: #8aa4cc; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7ea; }
    .muted { fill: #a3abb5; }
    .page { fill: #15181c; stroke: #30363d; }
    .known { fill: #345fa3; }
    .own { fill: #6aa1ff; }
    .late { stroke: #4f6c9c; }
    .later { fill: #20252b; }
    .whole { fill: #7d5526; }
    .self { fill: #f0ad59; }
    .apart { fill: #15181c; stroke: #7d5526; }
    .cross { stroke: #e2a155; }
    .stripe { stroke: #4f6c9c; }
  }
"""  # noqa: E501
DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Drawn by docs/mask.py from kernels/shared_context_attention/reference.py. -->
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 548" width="940" height="548" role="img" aria-labelledby="name about">
<title id="name">What each token sees</title>
<desc id="about">A matrix of four impressions, each a post and an action, and three candidates.
An impression sees what was known when it was served, and itself.
A candidate sees the whole history and itself, and no other candidate.</desc>
<style>{style}</style>
<pattern id="stripes" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="stripe" d="M0 0V7"/></pattern>
<rect class="page" x=".5" y=".5" width="939" height="547" rx="12"/>
{drawing}
</svg>
"""  # noqa: E501


def seen() -> list[list[bool]]:
    """Which token (row) sees which (column), as the kernels' specification has it."""
    prefix = torch.tensor(KNOWN, dtype=torch.int32).repeat_interleave(2) * 2
    info = SeqlenInfo(cu_seqlens=torch.tensor([0, HISTORY], dtype=torch.int32), prefix=prefix)
    history = torch.nn.functional.pad(context_mask(info, 0), (0, CANDIDATES))
    return torch.cat([history, candidate_mask(HISTORY, CANDIDATES, prefix.device)]).tolist()


def kind(row: int, column: int, sees: bool) -> str:
    """What a cell means: a name of `LEGEND`."""
    if row >= HISTORY:
        if column < HISTORY:
            return "whole" if sees else "later"
        return "self" if sees else "apart"
    if sees:
        return "own" if column // 2 == row // 2 else "known"
    return "late" if column // 2 < row // 2 else "later"


def cell(name: str, x: int, y: int, size: int = STEP - 4) -> str:
    """A square of a kind; one that is kept apart is crossed out."""
    square = f'<rect class="{name}" x="{x}" y="{y}" width="{size}" height="{size}" rx="5"/>'
    if name != "apart":
        return square
    near, far = size // 3, size - size // 3
    lines = f"M{x + near} {y + near}L{x + far} {y + far}M{x + far} {y + near}L{x + near} {y + far}"
    return f'{square}<path class="cross" d="{lines}"/>'


def words(content: str, x: int, y: int, name: str = "plain") -> str:
    """A line of text."""
    return f'<text class="{name}" x="{x}" y="{y}">{content}</text>'


def offset(index: int) -> int:
    """How far a row or column lies from the first."""
    return index * STEP + (GAP if index >= HISTORY else 0)


def matrix() -> Iterator[str]:
    """The cells, and the tokens' names above and beside them."""
    for row, columns in enumerate(seen()):
        y = TOP + offset(row)
        yield words(NAMES[row], LEFT - 14, y + 20, "token side")
        yield words(NAMES[row], LEFT + offset(row) + STEP // 2 - 2, TOP - 12, "token top")
        for column, sees in enumerate(columns):
            yield cell(kind(row, column, sees), LEFT + offset(column), y)
    for i in range(len(KNOWN)):
        yield words(f"impression {i + 1}", 32, TOP + offset(2 * i) + 37, "muted")
    yield words("candidates", 32, TOP + offset(HISTORY + CANDIDATES // 2) + 20, "muted")


def beside() -> Iterator[str]:
    """The legend, and what there is to see."""
    y = TOP + 8
    for heading, kinds in LEGEND.items():
        yield words(heading, WORDS, y, "token")
        for name, meaning in kinds.items():
            y += 29
            yield cell(name, WORDS, y - 14, 18)
            yield words(meaning, WORDS + 30, y)
        y += 44
    for i, line in enumerate(NOTES):
        yield words(line, WORDS, y + 20 * i + 12 * (i // 2), "muted")


def draw() -> str:
    """The whole picture."""
    lines = [words("What each token sees", 32, 44, "title")]
    lines.append(words(f"A row sees the columns that are filled. {TOKENS}", 32, 70, "muted"))
    return DOCUMENT.format(style=STYLE, drawing="\n".join([*lines, *matrix(), *beside()]))


def main() -> None:
    """Writes the picture, by rename."""
    PICTURE.parent.mkdir(exist_ok=True)
    beside_it = PICTURE.with_suffix(".tmp")
    beside_it.write_text(draw(), encoding="utf-8")
    beside_it.replace(PICTURE)


if __name__ == "__main__":
    main()
