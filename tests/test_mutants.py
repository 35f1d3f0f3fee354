# SPDX-License-Identifier: Apache-2.0
"""The mutation runner: what it changes, what it leaves alone, and that it tells who was noticed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants as runner
from tests.mutant_operators import mutants, mutate

REPOSITORY = Path(__file__).parent.parent
SOURCE = '''
"""A docstring with 1 number."""
LIMIT = 3


def clip(x: int | None, low: int = 0) -> int:
    """Not below `low`, not above the limit."""
    assert low < LIMIT
    if x is None or x < low:
        return low
    if x > 99:
        raise ValueError(f"{x + 1} is too large")
    return min(x, LIMIT) if not low else dict(value=x % 2)["value"]
'''
TESTS = """
from toy import clip


def test_clip() -> None:
    assert [clip(x) for x in (None, -1, 0, 2, 4)] == [0, 0, 0, 2, 3]
"""


def names(source: str) -> list[str]:
    return [m.name for m in mutants(source)]


def test_every_kind_of_change_is_made_once_and_prose_is_left_alone() -> None:
    found = names(SOURCE)
    assert len(found) == len(set(found))
    for part in ("3 -> 4", "0 -> 1", "x is None or x < low -> x is None and x < low",
                 "x < low -> x <= low", "x is None -> x is not None", "not if x is None or x < low",
                 "x > 99 -> x >= 99", "min -> max", "not low -> low", "x % 2 -> x // 2",
                 "without value= in dict()"):  # fmt: skip
        assert sum(f": {part}" in name for name in found) == 1, part
    assert not any(word in name for name in found for word in ("docstring", "assert", "raise"))
    assert not any("int | None" in name.split(" in `")[0] for name in found)


def test_each_mutant_is_another_program_and_the_first_is_not_the_last() -> None:
    programs = {ast.unparse(mutate(SOURCE, m)) for m in mutants(SOURCE)}
    assert ast.unparse(ast.parse(SOURCE)) not in programs
    assert len(programs) == len(mutants(SOURCE))


def test_a_name_outlives_lines_above_it() -> None:
    assert set(names(SOURCE)) == set(names("\n\n# a comment\n" + SOURCE))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module, its test and an empty list of equivalent mutants."""
    (tmp_path / "toy.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS)
    (tmp_path / "equivalent.json").write_text("{}")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runner, "EQUIVALENT", tmp_path / "equivalent.json")
    return tmp_path


JUDGE = """
import json
import sys
from pathlib import Path
from tests import mutants as runner
runner.ROOT = Path.cwd()
runner.RESULTS, runner.EQUIVALENT = runner.ROOT / "results", runner.ROOT / "equivalent.json"
runner.RESULTS.mkdir(exist_ok=True)
every = runner.mutants(Path("toy.py").read_text())
chosen = [m for m in every if any(f": {text}" in m.name for text in sys.argv[1:])]
print(json.dumps(runner.judge("toy.py", chosen, ["test_toy.py"], 2).results))
"""


def judge_toy(toy: Path, *only: str) -> dict[str, str]:
    """As `make mutants`, in a process without threads: the runner forks its own."""
    paths = os.pathsep.join([str(toy), str(REPOSITORY)])
    judged = subprocess.run(
        [sys.executable, "-c", JUDGE, *only],
        cwd=toy,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert judged.returncode == 0, judged.stderr
    results: dict[str, str] = json.loads(judged.stdout.splitlines()[-1])
    return results


def test_what_tests_notice_and_what_they_do_not(toy: Path) -> None:
    results = judge_toy(toy, "3 -> 4", "x < low", "min -> max", "x > 99")
    assert {name.split(" in `")[0]: result for name, result in results.items()} == {
        ": 3 -> 4": "caught",
        "clip: x < low -> x <= low": "survived",
        "clip: min -> max": "caught",
        "clip: x > 99 -> x >= 99": "survived",
    }
    kept = json.loads((toy / "results" / "toy.py.json").read_text())
    assert kept["results"] == results
    named = {"toy.py": {name: "the limit itself" for name, r in results.items() if r == "survived"}}
    (toy / "equivalent.json").write_text(json.dumps(named))
    assert sorted(judge_toy(toy, "3 -> 4", "x < low").values()) == ["caught", "equivalent"]


def test_a_name_in_the_list_that_is_gone_is_told(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "equivalent.json").write_text(json.dumps({"toy.py": {"clip: 7 -> 8": "no reason"}}))
    caught, survived = runner.Outcome("toy.py", {"a": "caught"}), runner.Outcome("toy.py", {})
    assert runner._verdict([caught, survived]) == 1
    assert "clip: 7 -> 8" in capsys.readouterr().out
    (toy / "equivalent.json").write_text("{}")
    assert runner._verdict([caught, survived]) == 0


@pytest.mark.parametrize(("survivors", "code"), [(1, 0), (2, 1)])
def test_the_bar_is_ninety_five_of_a_hundred(toy: Path, survivors: int, code: int) -> None:
    results = {str(i): "caught" for i in range(20 * survivors - survivors - (survivors > 1))}
    results |= {f"s{i}": "survived" for i in range(survivors)} | {"e": "equivalent"}
    assert runner._verdict([runner.Outcome("toy.py", results)]) == code


def test_tests_that_fail_without_a_change_end_the_run(toy: Path) -> None:
    (toy / "tests" / "test_toy.py").write_text("def test_wrong() -> None:\n    assert False\n")
    with pytest.raises(AssertionError, match="fail without any change"):
        judge_toy(toy, "3 -> 4")


def test_the_chosen_modules_and_their_tests_are_there() -> None:
    for module, tests in runner.MODULES.items():
        assert (runner.ROOT / module).is_file(), module
        assert all((runner.ROOT / "tests" / test).is_file() for test in tests), module


def test_every_equivalent_mutant_that_is_named_is_there() -> None:
    assert runner._stale() == []
    assert all(why for named in runner.equivalents().values() for why in named.values())
