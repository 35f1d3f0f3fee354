# SPDX-License-Identifier: Apache-2.0
"""Every error is one line for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.loop.errors import StepError, sentence


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("day is 3;\n  want 4"), "day is 3; want 4"),
        (ConnectionError("nobody answers"), "nobody answers"),
        (StepError("gate: refused"), "gate: refused"),
        (ValueError(), "ValueError"),
        (KeyError("tasks"), "KeyError: 'tasks'"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
        (MemoryError(), "MemoryError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_an_error_is_its_own_sentence_or_has_its_type(error: BaseException, told: str) -> None:
    assert sentence(error) == told


def test_a_file_s_error_names_the_file_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "x").read_bytes()
    told = sentence(caught.value)
    assert told.startswith(f"{tmp_path / 'x'}: no such file or directory; look at the path")
