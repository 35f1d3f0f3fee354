# SPDX-License-Identifier: Apache-2.0
"""A body is what it is, whatever it is labelled; each corner of bytes and JSON is one sentence."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request

from serving.errors import Unsupported
from serving.protocol.body import decompress, parse_json, receive

CALL = b'{"instances": [1]}'
JSON = {"content-type": "application/json"}


def headers(*pairs: tuple[str, str], **named: str) -> Headers:
    given = [*pairs, *((name.replace("_", "-"), value) for name, value in named.items())]
    return Headers(raw=[(n.lower().encode(), v.encode("latin-1")) for n, v in given])


@pytest.mark.parametrize(
    "label",
    [
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; CHARSET=Utf8; profile=x",
        "application/json; charset=us-ascii",
        "Application/JSON",
        " application/json ",
        "application/json;",
        "text/json",
        "application/vnd.feed+json",
        "application/ld+json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
        "",
    ],
)
def test_json_is_taken_under_any_label_that_may_mean_it(label: str) -> None:
    assert parse_json(CALL, headers(content_type=label)) == {"instances": [1]}


def test_json_is_taken_without_a_label_and_under_the_same_one_twice() -> None:
    assert parse_json(CALL, headers()) == {"instances": [1]}
    twice = [("content-type", "application/json")] * 2
    assert parse_json(CALL, headers(*twice)) == {"instances": [1]}


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("application/json; charset=utf-16", "charset is 'utf-16', want utf-8"),
        ("application/json; charset=latin-1", "charset is 'latin-1', want utf-8"),
        ("application/msgpack", "'application/msgpack', want application/json"),
        ("application/vnd.apache.arrow.stream", "want application/json"),
        ("multipart/form-data; boundary=x", "want application/json"),
        ("application/xml", "want application/json"),
        ("image/svg+json", "want application/json"),
        ("json", "want application/json"),
        ("application/jsonl", "want application/json"),
        ("application/cloudevents+json", "CloudEvent"),
        ("application/cloudevents-batch+json", "CloudEvent"),
    ],
)
def test_what_is_labelled_as_something_else_is_unsupported(label: str, reason: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        parse_json(CALL, headers(content_type=label))
    assert reason in str(refusal.value)


def test_two_labels_and_the_headers_of_an_event_are_unsupported() -> None:
    two = [("content-type", "application/json"), ("content-type", "text/plain")]
    with pytest.raises(Unsupported, match="want application/json"):
        parse_json(CALL, headers(*two))
    with pytest.raises(Unsupported, match="CloudEvent"):
        parse_json(CALL, headers(ce_specversion="1.0", **JSON))


@pytest.mark.parametrize("label", ["", "application/octet-stream", "text/plain"])
@pytest.mark.parametrize("body", [b"\x81\xa9instances\x91\x01", b"\xff\xff\xff\xff", b"a=1", b"7"])
def test_an_unlabelled_body_that_is_no_json_is_unsupported(label: str, body: bytes) -> None:
    with pytest.raises(Unsupported, match="the body is no JSON"):
        parse_json(body, headers(content_type=label))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty, want JSON"),
        (b" \r\n", "the body is empty, want JSON"),
        (b"\xef\xbb\xbf", "the body is empty, want JSON"),
        (b"{", "no JSON: Expecting property name enclosed in double quotes at character 1"),
        (b'{"a": 1} {"a": 2}', "no JSON: Extra data at character 9"),
        (b"{'a': 1}", "no JSON"),
        (b'{"a": 1,}', "no JSON"),
        (b'{"a": "\x01"}', "no JSON: Invalid control character at"),
        (b'{"a": "\xff"}', "not UTF-8 from byte 7 on"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 from byte 0 on"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e400}', "the number '1e400' is beyond a double"),
        (b'{"a": -1e400}', "the number '-1e400' is beyond a double"),
        (b'{"a": 123456789012345678901}', "the number '123456789012345678901' is beyond 64 bits"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' is there twice"),
        (b'{"x": [{"a": 1, "b": 2, "b": 3}]}', "the key 'b' is there twice"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_one_sentence(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as refusal:
        parse_json(body, headers(**JSON))
    assert type(refusal.value) is ValueError


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"\xef\xbb\xbf" + CALL, {"instances": [1]}),
        (b'{"a": -9223372036854775808}', {"a": -(2**63)}),
        (b'{"a": 18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a": 1e308, "b": -0.0}', {"a": 1e308, "b": 0.0}),
        ('{"é": "ü"}'.encode(), {"é": "ü"}),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b"7", 7),
        (b"[" * 500 + b"]" * 500, json.loads("[" * 500 + "]" * 500)),
    ],
)
def test_what_is_json_is_taken(body: bytes, value: Any) -> None:
    assert parse_json(body, headers(**JSON)) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_every_value_comes_back_as_it_was_written(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_json(body, headers(**JSON)) == value


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": ("gzip", gzip.compress(CALL)),
    "gzip by its old name": ("x-gzip", gzip.compress(CALL)),
    "gzip in another case": ("GZip", gzip.compress(CALL)),
    "gzip in two members": ("gzip", gzip.compress(CALL[:7]) + gzip.compress(CALL[7:])),
    "deflate": ("deflate", zlib.compress(CALL)),
    "deflate at another level": ("deflate", zlib.compress(CALL, 0)),
    "deflate without its header": ("deflate", raw_deflate(CALL)),
    "identity": ("identity", CALL),
    "identity and gzip": ("identity, gzip", gzip.compress(CALL)),
    "none": ("", CALL),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("limit", [len(CALL), 1000])
def test_a_compressed_body_is_decompressed(name: str, limit: int) -> None:
    encoding, body = PACKED[name]
    assert decompress(body, headers(content_encoding=encoding), limit) == CALL


@pytest.mark.parametrize("name", [n for n in PACKED if n not in ("none", "identity")])
def test_a_body_that_grows_beyond_the_limit_is_refused(name: str) -> None:
    encoding, body = PACKED[name]
    with pytest.raises(ValueError, match=rf"more than {len(CALL) - 1} bytes; split the call"):
        decompress(body, headers(content_encoding=encoding), len(CALL) - 1)


def test_a_bomb_is_refused_before_it_is_whole() -> None:
    bomb = gzip.compress(bytes(200_000_000))
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        decompress(bomb, headers(content_encoding="gzip"), 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "deflate,gzip", "x"])
def test_another_encoding_is_unsupported(encoding: str) -> None:
    with pytest.raises(Unsupported, match="want gzip, deflate or none") as refusal:
        decompress(CALL, headers(content_encoding=encoding), 1000)
    assert encoding.split(",")[0] in str(refusal.value)


def test_encodings_in_two_headers_are_unsupported() -> None:
    two = [("content-encoding", "gzip"), ("content-encoding", "gzip")]
    with pytest.raises(Unsupported):
        decompress(CALL, headers(*two), 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body_is_one_sentence(encoding: str) -> None:
    whole = gzip.compress(CALL) if encoding == "gzip" else zlib.compress(CALL)
    named = headers(content_encoding=encoding)
    for end in (1, 5, len(whole) - 1):
        with pytest.raises(ValueError, match=r"ends too early|is not"):
            decompress(whole[:end], named, 1000)
    for body in (CALL, whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"tail"):
        with pytest.raises(ValueError, match=f"the body is not {encoding}"):
            decompress(body, named, 1000)
    assert decompress(b"", named, 1000) == b""


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_what_is_labelled_gzip_is_no_other_form_of_zlib(encoding: str) -> None:
    with pytest.raises(ValueError, match=f"not {encoding}, as its encoding says"):
        decompress(zlib.compress(CALL), headers(content_encoding=encoding), 1000)


def received(parts: list[bytes], limit: int) -> bytes:
    """What is received of a call whose body comes in parts."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def give() -> dict[str, Any]:
        return messages.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": []}, give)
    body = asyncio.run(receive(request, limit))
    assert messages == []
    return body


@pytest.mark.parametrize(
    "parts", [[b"abcdef"], [b"ab", b"cdef"], [b"abcde", b"f"], [b"", b"abcdef"]]
)
def test_a_body_of_exactly_the_limit_is_received_whole(parts: list[bytes]) -> None:
    assert received(parts, 6) == b"abcdef"
    with pytest.raises(ValueError, match="more than 5 bytes"):
        received(parts, 5)
