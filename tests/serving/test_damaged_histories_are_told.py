# SPDX-License-Identifier: Apache-2.0
"""Mutated history values and candidates: a whole result or one ValueError, never a crash."""

from __future__ import annotations

import random
import zlib

import pytest

from serving.history import CHECKSUM_BYTES, decode_history
from serving.wire import decode_candidates, encode_candidates
from tests.fuzz import mutations
from tests.log_builders import small_spec
from tests.serving_builders import candidates, history_value

SPECS = [small_spec("kuairand"), small_spec("simulator")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_a_damaged_history_with_a_right_checksum_is_an_error_or_whole(spec) -> None:  # type: ignore[no-untyped-def]
    stream = history_value(spec, 9, seed=1)[:-CHECKSUM_BYTES]
    messages = []
    for damaged in mutations(stream, 400, random.Random(0)):
        checksum = zlib.crc32(damaged).to_bytes(CHECKSUM_BYTES, "little")
        try:
            history = decode_history(damaged + checksum, spec)
        except ValueError as error:
            messages.append(str(error))
            continue
        assert history.batch.schema.names == spec.history_schema.names
        assert history.batch.num_rows == history.count - history.start
        assert all(len(c) == history.batch.num_rows for c in history.batch.columns)
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_damaged_candidates_are_an_error_or_whole(spec) -> None:  # type: ignore[no-untyped-def]
    encoded = encode_candidates(spec, *candidates(spec, 7, seed=1))
    refused = 0
    for damaged in mutations(encoded, 400, random.Random(1)):
        try:
            features, context_NC = decode_candidates(spec, damaged, max_candidates=64)
        except ValueError:
            refused += 1
            continue
        assert 0 < len(context_NC) <= 64
        assert context_NC.shape[1] == spec.context_width
        assert {len(values) for values in features.values()} == {len(context_NC)}
    assert refused > 100
