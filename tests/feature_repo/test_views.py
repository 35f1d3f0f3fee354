# SPDX-License-Identifier: Apache-2.0
"""A Feast view for each view of a spec and one for histories: keys, one packed value, no expiry."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from feast.types import Bytes, Int64

from feature_repo.sources import file_source, push_source
from feature_repo.spec import Spec
from feature_repo.specs import KUAIRAND, SIMULATOR
from feature_repo.views import HISTORY, PACKED, feature_views, history_view

ROOT = Path("/run")


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_a_view_is_its_keys_and_one_value(spec: Spec) -> None:
    """An online read costs what its number of values does."""
    *views, history = feature_views(spec, ROOT)
    assert [view.name for view in views] == [view.name for view in spec.views]
    for view, declared in zip(spec.views, views, strict=True):
        assert {f.name: f.dtype for f in declared.schema} == {
            **dict.fromkeys(view.keys, Int64),
            PACKED: Bytes,
        }
        assert declared.batch_source == file_source(view.name, ROOT)
        assert declared.tags == {
            "spec": spec.name,
            "spec_hash": spec.hash,
            "kind": view.kind,
            "utc_offset_hours": str(spec.utc_offset_hours),
        }
    assert history.name == HISTORY
    assert {view.ttl for view in (*views, history)} == {timedelta(0)}


def test_histories_are_members_and_can_be_pushed() -> None:
    view = history_view(SIMULATOR, ROOT)
    assert view.entities == ["member"]
    assert {f.name: f.dtype for f in view.schema} == {"member_id": Int64, HISTORY: Bytes}
    assert view.stream_source == push_source(ROOT)
    assert view.tags["kind"] == "history"
