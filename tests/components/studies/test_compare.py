# SPDX-License-Identifier: Apache-2.0
"""The comparison on a small simulated log: small rankers, real tuning, real training."""

import json
from dataclasses import replace

import pytest

from components.layout.locks import claimed
from components.studies.compare import CompareOptions, compare, run
from components.studies.contenders import CONTENDERS, Contender
from components.studies.learners import model_folder, trained_seconds
from components.studies.pages.tables import comparison_table
from components.studies.results import ResultsFile
from components.studies.tuning import Comparison
from tests import study_builders
from tests.study_builders import CHOOSING, TESTING, kept_seeds, kept_setting, kept_studies

SMALL = study_builders.CONTENDERS
TAUGHT = Contender(
    name="feed_sr_taught", title="Taught", base="feed_sr", changes={"cold.teachers": 1}
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    return study_builders.comparison(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def done(comparison) -> dict:
    assert compare(comparison, SMALL) == 0
    return json.loads(comparison.results.path.read_text())


def test_every_contender_is_tuned_alike_and_tested_with_every_seed(done) -> None:
    rows = done["rows"]
    for contender in SMALL:
        assert list(rows[f"tuning: {contender.name}"]["seeds"]) == ["0", "1", "2", "3"]
        assert len([name for name in rows if name.startswith(f"finalist: {contender.name} ")]) == 3
        assert list(rows[contender.name]["seeds"]) == ["0", "1"]
    assert rows["lightgbm"]["seeds"]["0"]["request_ms"] > 0
    assert rows["feed_sr"]["seeds"]["0"]["parameters"] > 0


def test_the_first_trial_is_the_start_and_the_others_are_of_the_space(done) -> None:
    trials = done["rows"]["tuning: feed_sr"]["seeds"]
    assert trials["0"]["values"] == {}
    for number in ("1", "2", "3"):
        values = trials[number]["values"]
        assert values["ranker.head.width"] in (8, 24)
        assert 1e-4 <= values["cold.learning_rate"] <= 1e-2


def test_the_best_on_the_choosing_days_over_seeds_is_what_is_tested(comparison, done) -> None:
    for contender in SMALL:
        trials = done["rows"][f"tuning: {contender.name}"]["seeds"]
        finalists = sorted(trials, key=lambda n: -trials[n]["auc"])[:3]
        means = {}
        for number in finalists:
            (again,) = done["rows"][f"finalist: {contender.name} {number}"]["seeds"].values()
            assert again["values"] == trials[number]["values"]
            assert again["fingerprint"] != trials[number]["fingerprint"]
            means[number] = (trials[number]["auc"] + again["auc"]) / 2
        best = trials[max(means, key=lambda n: means[n])]
        assert done["rows"][contender.name]["chosen"] == best["values"]
        trial = comparison.trial(contender, best["values"], TESTING, 1)
        assert done["rows"][contender.name]["seeds"]["1"]["fingerprint"] == trial.fingerprint


def test_a_taught_contender_is_what_its_base_chose_and_shares_its_teachers(
    comparison, done
) -> None:
    file = ResultsFile(
        path=comparison.work / "study_taught.json",
        name="compare",
        setting=comparison.results.setting,
    )
    alone = replace(comparison, results=file)
    assert compare(alone, [TAUGHT]) == 1  # its base is another process's
    chosen = done["rows"]["feed_sr"]["chosen"]
    teacher = comparison.trial(SMALL[0], chosen, TESTING, 1)
    model = model_folder(teacher, comparison.work) / "model.safetensors"
    written = model.stat().st_mtime_ns
    assert compare(alone, [SMALL[0], TAUGHT]) == 0
    assert model.stat().st_mtime_ns == written
    rows = json.loads(file.path.read_text())["rows"]
    assert rows["feed_sr_taught"]["chosen"] == {**chosen, **TAUGHT.changes}
    assert rows["feed_sr"]["seeds"] == done["rows"]["feed_sr"]["seeds"]
    plain, taught = (rows[name]["seeds"]["0"] for name in ("feed_sr", "feed_sr_taught"))
    assert plain["tasks"] != taught["tasks"]
    assert not (comparison.work / "trials" / taught["fingerprint"] / "teachers").exists()
    assert compare(replace(alone, seeds=3), [SMALL[0]]) == 0  # the third seed has been a teacher
    third = json.loads(file.path.read_text())["rows"]["feed_sr"]["seeds"]["2"]
    model = comparison.work / "trials" / third["fingerprint"] / "model"
    assert third["seconds"]["train"] == trained_seconds(model) > 0.1


def test_differences_are_against_the_same_seed_of_feed_sr(done) -> None:
    rows = done["rows"]
    for name in ("dcnv2", "lightgbm"):
        for seed in ("0", "1"):
            lead, error = rows[name]["seeds"][seed]["difference"]["long_dwell"]
            auc, ours = (
                rows[n]["seeds"][seed]["tasks"]["long_dwell"]["auc"] for n in (name, "feed_sr")
            )
            assert lead == pytest.approx(auc - ours, abs=1e-12)
            assert error > 0
            within = [
                rows[n]["seeds"][seed]["within_member"]["long_dwell"]["auc"]
                for n in (name, "feed_sr")
            ]
            lead, error = rows[name]["seeds"][seed]["within_difference"]["long_dwell"]
            assert lead == pytest.approx(within[0] - within[1], abs=1e-12)
            assert error > 0
    for kind in ("difference", "within_difference"):
        assert rows["feed_sr"]["seeds"]["0"][kind]["long_dwell"] == [0, 0]


def test_a_run_that_goes_on_suggests_what_it_suggested(comparison, done, monkeypatch) -> None:
    monkeypatch.setattr("components.studies.trial.run_trial", None)
    before = comparison.results.path.read_bytes()
    assert compare(comparison, SMALL) == 0
    assert comparison.results.path.read_bytes() == before


def test_a_contender_that_another_process_is_at_is_left_to_it(comparison, done) -> None:
    seeds = replace(comparison, seeds=3)
    chosen = done["rows"]["dcnv2"]["chosen"]
    held = comparison.trial(SMALL[1], chosen, TESTING, 2)
    with claimed(held.lock(comparison.work)):
        assert compare(seeds, SMALL[1:2]) == 1
    whole = json.loads(comparison.results.path.read_text())
    for seed in whole["rows"]["dcnv2"]["seeds"].values():
        del seed["difference"], seed["apart_from"]
    comparison.results.path.write_text(json.dumps(whole))
    assert compare(comparison, SMALL) == 0  # found again from the scores
    assert json.loads(comparison.results.path.read_text())["rows"] == done["rows"]


def test_a_training_that_another_process_holds_keeps_none_of_the_others_back(
    comparison, done
) -> None:
    file = replace(comparison.results, path=comparison.work / "study_shared.json")
    file.path.write_text(json.dumps(done))
    shared = replace(comparison, results=file, choosing_seeds=3, seeds=4)
    ours = SMALL[0]
    trials = done["rows"]["tuning: feed_sr"]["seeds"]
    finalists = sorted(trials, key=lambda n: -trials[n]["auc"])[:3]
    first = comparison.trial(ours, trials[finalists[0]]["values"], CHOOSING, 2)
    with claimed(first.lock(comparison.work)):
        assert compare(shared, [ours]) == 1
    rows = json.loads(file.path.read_text())["rows"]
    seeds = [list(rows[f"finalist: feed_sr {number}"]["seeds"]) for number in finalists]
    assert seeds == [["1"], ["1", "2"], ["1", "2"]]
    assert rows["feed_sr"] == done["rows"]["feed_sr"]  # not chosen yet, so not tested
    assert compare(shared, [ours]) == 0
    chosen = json.loads(file.path.read_text())["rows"]["feed_sr"]["chosen"]
    fifth = comparison.trial(ours, chosen, TESTING, 4)
    with claimed(fifth.lock(comparison.work)):
        assert compare(replace(shared, seeds=6), [ours]) == 1
    tested = json.loads(file.path.read_text())["rows"]["feed_sr"]["seeds"]
    assert list(tested) == ["0", "1", "2", "3", "5"]


def test_the_table_has_a_line_a_contender(done) -> None:
    table = comparison_table(done, "long_dwell")
    assert table.count("\n") == 2 + len(SMALL)
    assert "| DCNv2, two towers |" in table
    assert table.index("Feed-SR") < table.index("DCNv2") < table.index("LightGBM")


def test_within_a_day_is_shown_where_no_ranker_knows_the_day(done) -> None:
    fresh = {**done["setting"], "config": {**done["setting"]["config"], "freshness": "immediate"}}
    whole = comparison_table(done, "long_dwell")
    table = comparison_table({**done, "setting": fresh}, "long_dwell")
    assert " within a day |" in whole
    assert " within a day |" not in table
    wide = whole.splitlines()[0].count("|")
    assert {line.count("|") for line in table.splitlines()} == {wide - 2}


@pytest.mark.parametrize(
    ("through", "options", "what"),
    [
        ("2026-01-13", {"rankers": ["nothing"]}, "no ranker 'nothing'"),
        ("2026-01-13", {"freshness": "hourly"}, "freshness"),
        ("2026-01-12", {}, "before it begins"),
        ("2026-01-13", {"rankers": ["dcnv2_taught"]}, "compare that as well"),
    ],
)
def test_wrong_names_and_days_are_one_sentence(tmp_path, through, options, what) -> None:
    small = CompareOptions(**{"rankers": ["dcnv2"], "trials": 1, "seeds": 1, **options})
    with pytest.raises(ValueError, match=what):
        run(CHOOSING, through, small, tmp_path / "r.json", tmp_path)


@pytest.mark.parametrize("path", kept_studies("compare"), ids=lambda path: path.stem)
def test_a_kept_comparison_goes_on_where_it_was(path, tmp_path) -> None:
    """Every one of its trials has the fingerprint that it had."""
    choosing, config, setting = kept_setting(path)
    study = replace(
        study_builders.comparison(tmp_path),
        choosing=choosing,
        testing=choosing.following(setting["test_through"]),
        config=config,
    )
    contenders = {contender.name: contender for contender in CONTENDERS}
    for name, row, number, result in kept_seeds(path):
        if ": " in name:
            contender = contenders[row["contender"]]
            seed = 0 if name.startswith("tuning") else number
            trial = study.trial(contender, result["values"], study.choosing, seed)
        else:
            trial = study.trial(contenders[name], row["chosen"], study.testing, number)
        assert trial.fingerprint == result["fingerprint"], (name, number)
