# SPDX-License-Identifier: Apache-2.0
"""A results file grows by a seed at a time, and takes no other study in."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from components.studies.results import ResultsFile


@pytest.fixture
def file(tmp_path: Path) -> ResultsFile:
    return ResultsFile(path=tmp_path / "r.json", name="ablate", setting={"data": "sim:10"})


def test_a_seed_is_found_by_its_row_and_what_it_was_made_of(file: ResultsFile) -> None:
    assert file.entries() == {}
    assert file.seed("row", 0, "made of") is None
    file.put("row", {"part": "head"}, 0, {"fingerprint": "made of", "auc": 0.5})
    assert file.seed("row", 0, "made of") == {"fingerprint": "made of", "auc": 0.5}
    for row, seed, fingerprint in (("row", 0, "other"), ("row", 1, "made of"), ("r", 0, "made of")):
        assert file.seed(row, seed, fingerprint) is None


def test_seeds_are_in_order_and_say_when_and_with_what_they_were_made(file: ResultsFile) -> None:
    for seed in (2, 0, 1):
        file.put("row", {"part": "head"}, seed, {"fingerprint": str(seed)})
    whole = json.loads(file.path.read_text())
    assert list(whole["rows"]["row"]["seeds"]) == ["0", "1", "2"]
    assert set(whole) == {"name", "setting", "hardware", "rows", "date", "versions"}
    assert (whole["name"], whole["setting"]) == ("ablate", {"data": "sim:10"})
    assert whole["rows"]["row"]["part"] == "head"


def test_a_seed_that_is_put_again_replaces_itself_alone(file: ResultsFile) -> None:
    for auc in (0.5, 0.6):
        file.put("row", {}, 0, {"fingerprint": "x", "auc": auc})
        file.put("row", {}, 1, {"fingerprint": "x", "auc": 0.7})
    aucs = {seed: result["auc"] for seed, result in file.entries()["row"]["seeds"].items()}
    assert aucs == {"0": 0.6, "1": 0.7}


def test_a_row_whose_trials_are_made_otherwise_begins_anew(file: ResultsFile) -> None:
    for seed in (0, 1):
        file.put("row", {"changes": {"layers": (2,)}}, seed, {"fingerprint": str(seed)})
    assert list(file.entries()["row"]["seeds"]) == ["0", "1"]
    file.put("row", {"changes": {"layers": (4,)}}, 1, {"fingerprint": "other"})
    assert file.entries()["row"] == {
        "changes": {"layers": [4]},
        "seeds": {"1": {"fingerprint": "other"}},
    }


@pytest.mark.parametrize(
    "other", [{"name": "compare"}, {"setting": {"data": "sim:11"}}, {"setting": {}}]
)
def test_another_study_or_setting_is_not_mixed_in(file: ResultsFile, other: dict) -> None:
    file.put("row", {}, 0, {"fingerprint": "x"})
    before = file.path.read_bytes()
    wrong = replace(file, **other)
    for use in (wrong.entries, lambda: wrong.put("row", {}, 0, {"fingerprint": "y"})):
        with pytest.raises(ValueError, match="holds another study or setting"):
            use()
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "ablate"}', "no JSON"])
def test_a_file_that_holds_no_results_is_one_sentence(file: ResultsFile, text: str) -> None:
    file.path.write_text(text)
    with pytest.raises(ValueError, match="is no result of a study; name another file"):
        file.entries()


def put_row(file: ResultsFile, row: str) -> None:
    for seed in range(10):
        file.put(row, {}, seed, {"fingerprint": row})


def test_processes_that_write_at_once_lose_nothing_of_each_other(file: ResultsFile) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=put_row, args=(file, row)) for row in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
        assert writer.exitcode == 0
    assert {row: len(entry["seeds"]) for row, entry in file.entries().items()} == {"a": 10, "b": 10}
