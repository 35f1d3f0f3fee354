# SPDX-License-Identifier: Apache-2.0
"""What a message quotes: short, clean, and whole where it is short already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.excerpt import QUOTED, SENTENCE, excerpt, sentence


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("noon", "'noon'"),
        (-5, "-5"),
        (None, "None"),
        (1.5, "1.5"),
        ("a\nb\x00", r"'a\nb\x00'"),
        ("\ud800", r"'\ud800'"),
        ([1, 2, 3, 4], "[1, 2, 3, ...]"),
        ("x" * 58, f"'{'x' * 58}'"),
    ],
)
def test_a_short_value_is_quoted_whole(value: object, want: str) -> None:
    assert excerpt(value) == want


@pytest.mark.parametrize(
    "value",
    ["x" * 59, "x" * 10_000, 10**3000, b"y" * 500, ["z" * 900] * 9, {"k" * 700: ["v" * 700]}],
)
def test_a_long_value_is_cut(value: object) -> None:
    text = excerpt(value)
    assert len(text) <= QUOTED
    assert "..." in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_an_excerpt_of_anything_is_one_short_line(value: object) -> None:
    text = excerpt(value)
    assert len(text) <= QUOTED
    assert text.isprintable()
    text.encode()


@given(st.text(max_size=2000))
def test_a_sentence_of_anything_is_one_bounded_line(text: str) -> None:
    line = sentence(text)
    assert len(line) <= SENTENCE
    assert line.isprintable()
    assert all(len(word) <= QUOTED for word in line.split())
    assert sentence(line) == line


def test_a_sentence_keeps_its_words() -> None:
    assert sentence(" two\n words\t here ") == "two words here"
    assert sentence("x" * QUOTED) == "x" * QUOTED
    assert sentence("is " + "x" * (QUOTED + 1)) == "is " + "x" * (QUOTED - 3) + "..."
    exact = ("word " * SENTENCE)[:SENTENCE]
    assert sentence(exact[:-1] + "s") == exact[:-1] + "s"
    assert sentence(exact + "s") == exact[: SENTENCE - 3] + "..."


def test_the_limits_are_those_that_the_wire_page_states() -> None:
    assert len(sentence("ab " * 400)) == 300
    assert len(excerpt("x" * 300)) == 60
    assert excerpt([[[1]]]) == "[[[...]]]"
