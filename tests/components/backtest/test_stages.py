# SPDX-License-Identifier: Apache-2.0
"""Stages are skipped while inputs and code are the same, and code is all that is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.backtest.shards import write_test
from components.backtest.stages import HOME, Stages, code_files, code_hash, imports
from components.log.ingest import ingest
from components.log.sources import detect_source
from components.studies.leakage.cut import write_cut

MODULE = "components.step"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Packages of four floors, one file of which nothing imports."""
    files = {
        "components/__init__.py": "",
        "components/step.py": "import json\nfrom components import middle\n",
        "components/middle.py": "def work():\n    import serving.inner.deep\n",
        "components/other.py": "VALUE = 1\n",
        "serving/__init__.py": "",
        "serving/inner/__init__.py": "from .deep import VALUE\n",
        "serving/inner/deep.py": "VALUE = 1\n",
        "serving/inner/cpu/deep.cpp": "int value = 1;\n",
    }
    for name, text in files.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "home"


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, int]:
        self.times += 1
        return {"rows": self.times}


def change(path: Path) -> None:
    """Another byte, as an edit is."""
    path.write_text(path.read_text().replace("1", "2"))
    imports.cache_clear()


def test_changed_inputs_run_a_stage_again(tmp_path: Path, home: Path) -> None:
    work = Work()
    for inputs in ("a", "a", "b", "b", "a"):
        stages = Stages(tmp_path / "stages", home)
        stages.run("step", inputs, work, MODULE)
    assert work.times == 3
    assert stages.values["step"]["rows"] == 3


@pytest.mark.parametrize("changed", ["serving/inner/deep.py", "serving/inner/cpu/deep.cpp"])
def test_a_byte_of_a_module_deep_below_runs_the_stage_again(
    tmp_path: Path, home: Path, changed: str
) -> None:
    work = Work()
    for path, times in (("components/other.py", 1), (changed, 2), ("components/other.py", 2)):
        change(home / path)
        Stages(tmp_path / "stages", home).run("step", "a", work, MODULE)
        assert work.times == max(times, 1)


def test_every_file_below_a_module_is_seen(home: Path) -> None:
    files = {str(path.relative_to(home)) for path in code_files(MODULE, home)}
    assert files == {
        "components/__init__.py",
        "components/step.py",
        "components/middle.py",
        "serving/__init__.py",
        "serving/inner/__init__.py",
        "serving/inner/deep.py",
        "serving/inner/cpu/deep.cpp",
    }


def test_two_files_that_swap_their_texts_are_another_code(home: Path) -> None:
    first, second = home / "components/__init__.py", home / "serving/__init__.py"
    hashes = []
    for texts in (("A = 1\n", "B = 1\n"), ("B = 1\n", "A = 1\n")):
        for path, text in zip((first, second), texts, strict=True):
            path.write_text(text)
        imports.cache_clear()
        hashes.append(code_hash(MODULE, home))
    assert hashes[0] != hashes[1]


def test_a_stage_that_failed_is_run_again(tmp_path: Path, home: Path) -> None:
    def fail() -> dict[str, int]:
        raise ValueError("no")

    stages = tmp_path / "stages"
    Stages(stages, home).run("step", "a", dict, MODULE)
    with pytest.raises(ValueError, match="no"):
        Stages(stages, home).run("step", "b", fail, MODULE)
    assert not list(stages.glob("*.json"))


@pytest.mark.parametrize(
    ("function", "reached"),
    [
        (detect_source, "feature_repo/spec.py"),
        (ingest, "feature_repo/spec.py"),
        (write_test, "serving/history.py"),
        (write_test, "feature_repo/spec.py"),
        (write_cut, "kernels/loader/checksums.py"),
    ],
)
def test_the_stages_of_a_backtest_reach_what_they_run(function: object, reached: str) -> None:
    assert HOME / reached in code_files(function.__module__)
