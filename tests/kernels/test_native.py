# SPDX-License-Identifier: Apache-2.0
"""Where a compiled kernel is found, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels._native import VARIABLE, native


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    native.cache_clear()
    yield
    native.cache_clear()


def test_off_leaves_the_kernel_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    assert native("streaming_metrics") == (None, f"{VARIABLE}=off")


def test_a_missing_module_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    module, reason = native("no_such_kernel")
    assert module is None
    assert "without a C++ compiler" in reason


def test_a_folder_without_the_module_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="holds no compiled module"):
        native("streaming_metrics")


def test_a_folder_gives_its_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "streaming_metrics"
    folder.mkdir(parents=True)
    (folder / "_cpu.py").write_text("ANSWER = 42\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    module, reason = native("streaming_metrics")
    assert module is not None
    assert module.ANSWER == 42
    assert reason == f"built in {tmp_path}"
