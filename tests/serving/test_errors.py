# SPDX-License-Identifier: Apache-2.0
"""Refusals: a status over both protocols, one bounded sentence, and only what decoding raises."""

from __future__ import annotations

import pytest
from kserve.errors import InvalidInput

from serving.errors import (
    BAD_INPUT,
    NotFound,
    NotOffered,
    Refused,
    TooLate,
    Unavailable,
    Unsupported,
    bad_input,
)

LONG = " ".join(f"k{i:04d}" for i in range(200))


@pytest.mark.parametrize(
    ("kind", "http", "status"),
    [
        (Refused, 503, "UNAVAILABLE"),
        (Unavailable, 503, "UNAVAILABLE"),
        (TooLate, 504, "DEADLINE_EXCEEDED"),
        (NotFound, 404, "NOT_FOUND"),
        (NotOffered, 501, "UNIMPLEMENTED"),
        (Unsupported, 415, "INVALID_ARGUMENT"),
    ],
)
def test_a_refusal_has_a_status_over_both_protocols(
    kind: type[Refused], http: int, status: str
) -> None:
    refusal = kind("why \n it is" + LONG)
    assert (refusal.http_status, refusal.status_code.name) == (http, status)
    assert str(refusal) == refusal.details
    assert str(refusal).startswith("why it is")
    assert len(str(refusal)) == 300


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_whatever_decoding_raises_is_bad_input(kind: type[Exception]) -> None:
    with pytest.raises(InvalidInput) as refusal, bad_input("the thing"):
        raise kind("so  it is")
    said = {ValueError: "so it is", KeyError: "the thing cannot be read: 'so it is'"}
    assert str(refusal.value) == said.get(kind, "the thing cannot be read: so it is")
    assert isinstance(refusal.value.__cause__, kind)


def test_bad_input_stays_what_it_is_and_is_bounded() -> None:
    with pytest.raises(InvalidInput) as refusal, bad_input("the thing"):
        raise InvalidInput("so\nit  is " + LONG)
    assert str(refusal.value).startswith("so it is k0000")
    assert len(str(refusal.value)) == 300
    with bad_input("the thing"):
        pass


@pytest.mark.parametrize("kind", [ZeroDivisionError, MemoryError, AssertionError])
def test_only_what_decoding_raises_is_bad_input(kind: type[Exception]) -> None:
    with pytest.raises(kind), bad_input("the thing"):
        raise kind


def test_a_refusal_passes_the_guard_as_it_is() -> None:
    with pytest.raises(Unsupported, match=r"^another form$"), bad_input("the thing"):
        raise Unsupported("another form")
