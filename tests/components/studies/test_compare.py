# SPDX-License-Identifier: Apache-2.0
"""The comparison on a small simulated log: small rankers, real tuning, real training."""

import json
from dataclasses import replace

import pytest

from components.studies.compare import (
    CompareOptions,
    Comparison,
    Tuned,
    _chosen_by,
    choose,
    compare,
    make_trial,
    run,
)
from components.studies.config import changed, study_config
from components.studies.contenders import CONTENDERS, Between, Contender
from components.studies.lightgbm.ranker import LightGBMConfig
from components.studies.results import ResultsFile
from components.studies.tables import comparison_table
from components.studies.trial import Log, Trial, claimed_trial, trained_seconds
from feature_repo.specs import SIMULATOR
from model.build import RANKERS
from tests.loop_builders import small_config

CHOOSING = Log(data="sim:4000", train_before="2026-01-11", test_through="2026-01-12")
TESTING = Log(data="sim:4000", train_before="2026-01-13", test_through="2026-01-13")
CONFIG = study_config(small_config())
SMALL = (
    Contender(
        name="feed_sr",
        title="Feed-SR",
        space={"ranker.head.width": (8, 24), "cold.learning_rate": Between(1e-4, 1e-2)},
    ),
    Contender(name="dcnv2", title="DCNv2", space={"cold.epochs": (1, 2)}),
    Contender(
        name="lightgbm",
        title="LightGBM",
        start=LightGBMConfig(rounds=5, patience=2),
        space={"ranker.num_leaves": (3, 7)},
    ),
)

TAUGHT = Contender(
    name="feed_sr_taught", title="Taught", base="feed_sr", changes={"cold.teachers": 1}
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    work = tmp_path_factory.mktemp("compare")
    setting = {"data": "sim", "config": CONFIG.model_dump(mode="json")}
    file = ResultsFile(path=work / "study_compare.json", name="compare", setting=setting)
    return Comparison(
        choosing=CHOOSING,
        testing=TESTING,
        config=CONFIG,
        task="long_dwell",
        trials=4,
        choosing_seeds=2,
        seeds=2,
        work=work,
        results=file,
    )


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
        trial = make_trial(comparison, contender, best["values"], TESTING, 1)
        assert done["rows"][contender.name]["seeds"]["1"]["fingerprint"] == trial.fingerprint


def test_a_configuration_without_an_auc_is_below_every_other(comparison, tmp_path) -> None:
    """Its training diverged: it is tuned past, and is no end of the study."""
    file = replace(comparison.results, path=tmp_path / "study_compare.json")
    mine = replace(comparison, results=file)
    for key, auc in ((0, None), (1, 0.25)):
        trial = make_trial(mine, SMALL[1], {}, CHOOSING, 0)
        file.put("tuning", {}, key, {"fingerprint": trial.fingerprint, "auc": auc})
    found = [_chosen_by(mine, SMALL[1], "tuning", key, {}, 0) for key in (0, 1)]
    assert found == [0.0, 0.25]


def test_one_seed_of_luck_does_not_choose(comparison, monkeypatch) -> None:
    aucs = {0: (0.70, 0.70), 1: (0.72, 0.62), 2: (0.71, 0.71), 3: (0.69, 0.99)}
    monkeypatch.setattr(
        "components.studies.compare._chosen_by",
        lambda _, contender, row, key, values, seed: aucs[values["number"]][seed],
    )
    tried = [Tuned(number, {"number": number}, auc[0]) for number, auc in aucs.items()]
    for order in (tried, tried[::-1]):
        best = choose(comparison, SMALL[0], order, lambda: None)
        assert best is not None
        assert best.number == 2  # the third is no finalist
    assert choose(comparison, SMALL[0], tried[3:], None) is tried[3]  # nothing to train


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
    teacher = make_trial(comparison, SMALL[0], chosen, TESTING, 1)
    model = comparison.work / "trials" / teacher.fingerprint / "model" / "model.safetensors"
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
            apart, error = rows[name]["seeds"][seed]["difference"]["long_dwell"]
            mine, ours = (
                rows[n]["seeds"][seed]["tasks"]["long_dwell"]["auc"] for n in (name, "feed_sr")
            )
            assert apart == pytest.approx(mine - ours, abs=1e-12)
            assert error > 0
            within = [
                rows[n]["seeds"][seed]["within_member"]["long_dwell"]["auc"]
                for n in (name, "feed_sr")
            ]
            apart, error = rows[name]["seeds"][seed]["within_difference"]["long_dwell"]
            assert apart == pytest.approx(within[0] - within[1], abs=1e-12)
            assert error > 0
    for kind in ("difference", "within_difference"):
        assert rows["feed_sr"]["seeds"]["0"][kind]["long_dwell"] == [0, 0]


def test_a_run_that_goes_on_suggests_what_it_suggested(comparison, done, monkeypatch) -> None:
    monkeypatch.setattr("components.studies.compare.run_trial", None)
    before = comparison.results.path.read_bytes()
    assert compare(comparison, SMALL) == 0
    assert comparison.results.path.read_bytes() == before


def test_a_contender_that_another_process_is_at_is_left_to_it(comparison, done) -> None:
    seeds = replace(comparison, seeds=3)
    chosen = done["rows"]["dcnv2"]["chosen"]
    held: Trial = make_trial(comparison, SMALL[1], chosen, TESTING, 2)
    with claimed_trial(comparison.work, held):
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
    first = make_trial(comparison, ours, trials[finalists[0]]["values"], CHOOSING, 2)
    with claimed_trial(comparison.work, first):
        assert compare(shared, [ours]) == 1
    rows = json.loads(file.path.read_text())["rows"]
    seeds = [list(rows[f"finalist: feed_sr {number}"]["seeds"]) for number in finalists]
    assert seeds == [["1"], ["1", "2"], ["1", "2"]]
    assert rows["feed_sr"] == done["rows"]["feed_sr"]  # not chosen yet, so not tested
    assert compare(shared, [ours]) == 0
    chosen = json.loads(file.path.read_text())["rows"]["feed_sr"]["chosen"]
    fifth = make_trial(comparison, ours, chosen, TESTING, 4)
    with claimed_trial(comparison.work, fifth):
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


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_every_contender_is_a_ranker_and_every_corner_of_its_space_is_valid(contender) -> None:
    assert contender.name in RANKERS or contender.name == "lightgbm" or contender.base in RANKERS
    for take in (0, -1):
        values = {
            name: (choices.low, choices.high)[take]
            if isinstance(choices, Between)
            else choices[take]
            for name, choices in contender.space.items()
        } or contender.changes
        comparison = Comparison(
            choosing=CHOOSING,
            testing=TESTING,
            config=CONFIG,
            task="click",
            trials=1,
            choosing_seeds=1,
            seeds=1,
            work=None,  # type: ignore[arg-type]
            results=None,  # type: ignore[arg-type]
        )
        trial = make_trial(comparison, contender, values, TESTING, 0)
        assert trial.config.spec == SIMULATOR
        assert trial.fingerprint != make_trial(comparison, contender, {}, TESTING, 0).fingerprint


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


def test_tuning_starts_from_the_configuration_of_the_run(comparison) -> None:
    for contender, own in zip(SMALL, (CONFIG.feed_sr, CONFIG.dcnv2), strict=False):
        assert make_trial(comparison, contender, {}, TESTING, 0).ranker == own


def test_a_trial_is_another_one_by_anything_it_is_made_of(comparison) -> None:
    first = make_trial(comparison, SMALL[0], {}, TESTING, 0)
    others = [
        replace(first, seed=1),
        replace(first, log=CHOOSING),
        replace(first, ranker=CONFIG.dcnv2),
        replace(first, config=changed(CONFIG, {"cold": {"epochs": 9}})),
        replace(first, config=changed(CONFIG, {"freshness": "30m"})),
        replace(first, config=changed(CONFIG, {"without": ["affinity"]})),
    ]
    assert len({trial.fingerprint for trial in (first, *others)}) == 1 + len(others)
