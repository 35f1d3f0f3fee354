# SPDX-License-Identifier: Apache-2.0
"""A study's table says what its results say: a line a row, in order, and nothing that is not."""

import json
from dataclasses import replace
from typing import Any

import pytest

from components.studies.contenders import CONTENDERS
from components.studies.experiments import ABLATION, with_references
from components.studies.incremental import METHODS
from components.studies.pages.intervals import over_seeds, spread
from components.studies.pages.render import TABLES
from components.studies.pages.tables import (
    SHORT,
    ablation_table,
    comparison_table,
    in_order,
    incremental_table,
    leakage_table,
    scaling_table,
    short_comparison_table,
)
from tests.study_builders import KEPT

TASK = "long_dwell"


def results(name: str) -> dict[str, Any]:
    """A kept study."""
    return json.loads((KEPT / f"study_{name}.json").read_bytes())  # type: ignore[no-any-return]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_an_ablation_is_shown_as_it_is_declared_and_what_is_not_declared_last() -> None:
    declared = [experiment.row for experiment in with_references(ABLATION)]
    rows = {name: {"part": name} for name in ("zz: dropped", "aa: dropped", *declared[::-1])}
    names = [row["part"] for row in in_order(rows)]
    assert names == [*declared, "aa: dropped", "zz: dropped"]


def test_a_reference_has_no_difference_and_a_row_has_the_papers() -> None:
    lines = [cells(line) for line in ablation_table(results("ablate_kuairand"), TASK).splitlines()]
    heads, rows = lines[0], {(line[0], line[1]): line for line in lines[2:]}
    above, paper = heads.index("against its reference"), heads.index("paper")
    assert rows["all", "default"][above] == "reference"
    assert rows["head", "linear"][paper] == "-1.20 %"
    assert rows["head", "linear"][above] != "reference"
    assert "bias left" not in heads
    biased = ablation_table(results("ablate_simulator"), "click").splitlines()
    assert cells(biased[0])[-2:] == ["bias left", "position known"]


def test_a_comparison_is_shown_in_the_order_of_the_list() -> None:
    table = comparison_table(results("compare_kuairand"), TASK)
    titles = [contender.title for contender in CONTENDERS]
    shown = [cells(line)[0].partition(" <sup>")[0] for line in table.splitlines()[2:]]
    assert [title for title in shown if title in titles] == titles
    ours = cells(table.splitlines()[2])
    assert ours[2] == ""


def test_within_a_day_is_shown_where_no_ranker_knows_the_day() -> None:
    whole = comparison_table(results("compare_kuairand"), TASK)
    fresh = comparison_table(results("compare_immediate_kuairand"), TASK)
    assert " within a day |" in whole
    assert " within a day |" not in fresh
    wide = whole.splitlines()[0].count("|")
    assert fresh.splitlines()[0].count("|") == wide - 2


def test_a_short_comparison_names_a_few() -> None:
    lines = short_comparison_table(results("compare_kuairand"), TASK).splitlines()[2:]
    titles = [contender.title for contender in CONTENDERS if contender.name in SHORT]
    assert [cells(line)[0] for line in lines] == titles


def test_a_scaling_table_ends_with_its_line_and_grows_downwards() -> None:
    study = results("scaling_simulator")
    *lines, empty, line = scaling_table(study, "click").splitlines()
    operations = [float(cells(row)[2]) for row in lines[2:]]
    assert operations == sorted(operations)
    assert len(operations) == len(study["rows"])
    assert empty == ""
    assert line.endswith("for ten times the operations.")


def test_a_seed_without_an_auc_is_no_point_of_the_line() -> None:
    study = results("scaling_simulator")
    both = json.loads(json.dumps(study))
    for row in both["rows"].values():
        row["seeds"]["9"] = {"training_flops": 1e15, "tasks": {"click": {"auc": None}}}
    lines = [scaling_table(each, "click").splitlines()[-1] for each in (study, both)]
    assert lines[0] == lines[1]
    for row in both["rows"].values():
        row["seeds"] = {"9": row["seeds"]["9"]}
    with pytest.raises(ValueError, match="at least two sizes"):
        scaling_table(both, "click")


def test_a_leakage_table_has_the_asked_task_first_and_the_truth_where_it_is_known() -> None:
    for name, truth in (("leakage_kuairand", False), ("leakage_simulator", True)):
        study = results(name)
        lines = [cells(line) for line in leakage_table(study, TASK).splitlines()]
        assert ("planted" in lines[0]) == truth
        assert lines[2][0] == TASK
        assert {line[0] for line in lines[2:]} == set(study["tasks"])
        served = lines[0].index("served")
        assert lines[2][served] == f"{study['tasks'][TASK]['auc']['served']:.4f}"


def test_methods_of_a_day_stand_side_by_side() -> None:
    study = results("incremental_simulator")
    lines = [cells(line) for line in incremental_table(study, "click").splitlines()]
    assert lines[0] == ["day", *METHODS, "seconds"]
    for line in lines[2:-2]:
        shown = [spread(study["rows"][f"{line[0]}: {method}"], "click") for method in METHODS]
        assert line[1:5] == shown


def test_a_table_of_others_has_no_note() -> None:
    study = results("compare_kuairand")
    study["rows"] = {n: study["rows"][n] for n in ("feed_sr", "dcnv2")}
    table = comparison_table(study, "long_dwell")
    assert "<sup>" not in table
    assert table.endswith("|\n")


def test_notes_are_numbered_in_the_order_of_their_rows_and_said_once(monkeypatch) -> None:
    """Two rankers share a note, one has another, one has none."""
    notes = {"dcnv2": "two towers", "lirank": "gated", "dcnv2_taught": "two towers"}
    others = [replace(c, note=notes.get(c.name, "")) for c in CONTENDERS]
    monkeypatch.setattr("components.studies.pages.tables.CONTENDERS", others)
    study = results("compare_kuairand")
    rows, *beneath = comparison_table(study, "click").split("\n\n")
    assert beneath == ["<sup>1</sup> two towers", "<sup>2</sup> gated\n"]
    marked = {line.split("|")[1].strip() for line in rows.splitlines() if "<sup>" in line}
    assert marked == {
        "DCNv2, two towers <sup>1</sup>",
        "DCNv2, three teachers <sup>1</sup>",
        "LiRank (Residual DCN, dense gating, isotonic layer) <sup>2</sup>",
    }


def test_a_daily_study_that_was_stopped_shows_what_it_has() -> None:
    study = results("incremental_kuairand")
    days = sorted({row["day"] for row in study["rows"].values()})
    kept = [f"{days[0]}: cold", f"{days[0]}: warm", f"{days[1]}: cold"]
    rows = {name: study["rows"][name] for name in kept}
    seconds = [over_seeds(rows[name], lambda seed: seed["train_seconds"]) for name in kept]
    lines = incremental_table({**study, "rows": rows}, "long_dwell").splitlines()
    assert lines[2:] == [
        f"| {days[0]} | {spread(rows[kept[0]], 'long_dwell')} | "
        f"{spread(rows[kept[1]], 'long_dwell')} | - | - | "
        f"{seconds[0]:.0f}, {seconds[1]:.0f}, -, - |",
        f"| {days[1]} | {spread(rows[kept[2]], 'long_dwell')} | - | - | - | "
        f"{seconds[2]:.0f}, -, -, - |",
        "| mean after the first day, against cold | reference | - | - | - | |",
    ]


@pytest.mark.parametrize("path", sorted(KEPT.glob("study_*.json")), ids=lambda path: path.stem)
def test_a_study_that_has_nothing_yet_is_a_table_of_no_rows(path) -> None:
    study = json.loads(path.read_text())
    if "rows" not in study or study["name"] == "scaling":
        pytest.skip("made in one piece, or a line through two sizes at least")
    whole = TABLES[study["name"]](study, "long_dwell").splitlines()
    empty = TABLES[study["name"]]({**study, "rows": {}}, "long_dwell").splitlines()
    assert empty[1] in whole[1]
    assert len(empty) == (3 if study["name"] == "incremental" else 2)
