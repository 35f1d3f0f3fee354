# SPDX-License-Identifier: Apache-2.0
"""What a root remembers is what was written, by whichever command, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.layout.paths import Layout
from components.registry.note import RootNote


def test_a_note_comes_back_and_a_root_without_one_has_none(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    assert RootNote.in_root(layout) is None
    for note in (RootNote(config="demo"), RootNote(config="kuairand", log="9 simulated days")):
        note.write(RootNote.path(layout))
        assert RootNote.in_root(layout) == note


def test_a_note_of_before_has_no_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": "demo"}')
    assert RootNote.in_root(Layout.at(tmp_path)) == RootNote(config="demo")


def test_a_damaged_note_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"log": "9 simulated days"}')
    with pytest.raises(ValueError, match=r"config\.json is damaged: config: .*; remove the root"):
        RootNote.in_root(Layout.at(tmp_path))
