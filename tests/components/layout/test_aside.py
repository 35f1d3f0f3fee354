# SPDX-License-Identifier: Apache-2.0
"""What is put aside goes with its block, or with the next one where its process was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from components.layout import aside as module
from components.layout.aside import aside

HOLD = """
import time
from components.layout.aside import aside
with aside("rows") as folder:
    (folder / "rows.arrow").write_text("many")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for files that are put aside."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(home: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_there_for_its_block_and_leaves_nothing(home: Path) -> None:
    with aside("rows") as folder, aside("rows") as other:
        assert folder.parent == other.parent == home
        assert folder != other
        assert folder.name.startswith("feedsr-aside-rows-")
        (folder / "rows").mkdir()
        (folder / "rows" / "0.arrow").write_text("many")
    assert [*home.iterdir()] == []
    with pytest.raises(ValueError, match="bad row"), aside("rows"):
        raise ValueError("bad row")
    assert [*home.iterdir()] == []


def test_what_a_killed_process_left_goes_with_the_next_folder_and_nothing_else(home: Path) -> None:
    (home / "feedsr-serving-1").mkdir()
    process, left = holder(home)
    living, kept = holder(home)
    try:
        process.kill()
        process.wait(20)
        assert (left / "rows.arrow").is_file()
        with aside("rows") as folder:
            assert {*home.iterdir()} == {folder, kept, home / "feedsr-serving-1"}
            assert (kept / "rows.arrow").is_file()
    finally:
        living.kill()
        living.wait(20)
        assert process.stdout
        assert living.stdout
        process.stdout.close()
        living.stdout.close()


def test_many_at_once_each_have_their_own(home: Path) -> None:
    failures: list[BaseException] = []

    def hold(number: int) -> None:
        try:
            for _ in range(30):
                with aside("rows") as folder:
                    (folder / "own").write_text(str(number))
                    assert (folder / "own").read_text() == str(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [*home.iterdir()] == []


def test_a_place_that_keeps_no_folder_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tempfile.mkdtemp

    def goes_at_once(**where: str) -> str:
        folder = made(**where)
        Path(folder).rmdir()
        return folder

    monkeypatch.setattr(module.tempfile, "mkdtemp", goes_at_once)
    with pytest.raises(OSError, match=f"{home} keeps no new folder"), aside("rows"):
        pass
