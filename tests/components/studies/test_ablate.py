# SPDX-License-Identifier: Apache-2.0
"""The ablation on a small simulated log, every part of it the real one."""

import dataclasses
import json

import pytest

from components.layout.locks import claimed
from components.studies.ablate import Study, ablate, choose_experiments, describe
from components.studies.experiments import (
    ABLATION,
    CONTEXT,
    Experiment,
    model,
    training,
    with_references,
)
from components.studies.pages.intervals import difference
from components.studies.pages.tables import ablation_table
from components.studies.results import ResultsFile
from components.studies.scores import Scores, differences
from feature_repo.specs import SIMULATOR
from tests.components.log.sources.test_parquet import write_own
from tests.study_builders import CONFIG, SPLIT, kept_seeds, kept_setting, kept_studies

SERVED = {"freshness": "30m", "train_freshness": "immediate"}
EXPERIMENTS = (
    Experiment(part="head", name="linear", changes=model(head={"name": "linear"}), paper=-1.2),
    Experiment(part="fusion", name="all early", changes={"early": CONTEXT}),
    Experiment(
        part="session", name="in order", base=SERVED, changes=training(session_shuffle=False)
    ),
    Experiment(part="features without", name="affinity", changes={"without": ["affinity"]}),
    Experiment(part="history", name="10 impressions", changes={"max_impressions": 10}),
)
ROWS = [
    "all: default",
    "head: linear",
    "fusion: all early",
    "session: default",
    "session: in order",
    "features without: affinity",
    "history: 10 impressions",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    work = tmp_path_factory.mktemp("study")
    file = ResultsFile(path=work / "study_small.json", name="ablate", setting={"data": SPLIT.data})
    return Study(split=SPLIT, config=CONFIG, work=work, results=file)


@pytest.fixture(scope="module")
def done(study) -> dict:
    assert ablate(study, EXPERIMENTS, 2) == 0
    return json.loads(study.results.path.read_text())


def test_every_row_and_its_reference_is_measured_with_every_seed(done) -> None:
    assert set(done["rows"]) == set(ROWS)
    for row in done["rows"].values():
        assert list(row["seeds"]) == ["0", "1"]
        for seed in row["seeds"].values():
            assert set(seed["tasks"]) == set(SIMULATOR.task_names)
            assert seed["step_ms"] > 0
            assert seed["gflop"] > 0
    assert done["rows"]["session: in order"]["reference"] == "session: default"


def test_a_difference_is_that_of_the_two_aucs_and_none_to_itself(done) -> None:
    rows = done["rows"]
    for row in rows.values():
        for number, seed in row["seeds"].items():
            other = rows[row["reference"]]["seeds"][number]
            lead, error = seed["difference"]["long_dwell"]
            auc, reference = (each["tasks"]["long_dwell"]["auc"] for each in (seed, other))
            assert lead == pytest.approx(auc - reference, abs=1e-12)
            assert (error == 0) == (row["name"] == "default")


def test_a_row_that_has_no_difference_yet_gets_that_of_its_seeds(study, done) -> None:
    whole = json.loads(study.results.path.read_text())
    for row in whole["rows"].values():
        del row["seeds"]["1"]["difference"], row["seeds"]["1"]["apart_from"]
    study.results.path.write_text(json.dumps(whole))
    assert ablate(study, EXPERIMENTS, 2) == 0
    assert json.loads(study.results.path.read_text())["rows"] == done["rows"]


def test_a_study_that_is_done_does_nothing_again(study, done, monkeypatch) -> None:
    monkeypatch.setattr("components.studies.trial.run_trial", None)
    before = study.results.path.read_bytes()
    assert ablate(study, EXPERIMENTS, 2) == 0
    assert study.results.path.read_bytes() == before


def test_figures_that_are_gone_come_back_the_same_from_what_was_trained(study, done) -> None:
    whole = json.loads(study.results.path.read_text())
    kept = whole["rows"].pop("head: linear")
    study.results.path.write_text(json.dumps(whole))
    assert ablate(study, EXPERIMENTS, 2) == 0
    assert json.loads(study.results.path.read_text())["rows"]["head: linear"] == kept


def test_a_trial_that_another_process_holds_is_left_to_it(study, done) -> None:
    whole = json.loads(study.results.path.read_text())
    fingerprint = whole["rows"]["head: linear"]["seeds"].pop("1")["fingerprint"]
    study.results.path.write_text(json.dumps(whole))
    with claimed(study.work / "trials" / f"{fingerprint}.lock"):
        assert ablate(study, EXPERIMENTS, 2) == 1
    assert ablate(study, EXPERIMENTS, 2) == 0


def test_an_experiment_that_does_not_fit_is_refused_before_anything_is_trained(study) -> None:
    wrong = Experiment(part="head", name="none", changes=model(head={"name": "none"}))
    before = study.results.path.read_bytes()
    with pytest.raises(ValueError, match="name"):
        ablate(study, [*EXPERIMENTS, wrong], 3)
    assert study.results.path.read_bytes() == before


def test_scores_of_another_test_are_not_compared(study, done) -> None:
    paths = sorted((study.work / "trials").glob("*/scores.npz"))
    scores = Scores.load(paths[0])
    fewer = Scores(**{name: rows[1:] for name, rows in vars(scores).items()})
    with pytest.raises(ValueError, match="same impressions"):
        differences([(scores, fewer)], SIMULATOR.task_names)


def test_the_table_has_a_line_a_row(done) -> None:
    table = ablation_table(done, "long_dwell")
    assert table.count("\n") == len(ROWS) + 2
    line = next(line for line in table.splitlines() if "| linear |" in line)
    assert "-1.20 %" in line
    assert str(difference(done["rows"]["head: linear"], "long_dwell")) in line


def test_the_reference_of_a_part_comes_before_its_rows() -> None:
    assert [e.row for e in with_references(EXPERIMENTS)] == ROWS


def test_propensities_are_those_that_the_log_at_hand_was_made_with(tmp_path) -> None:
    def known(data: str) -> dict[str, list[float]]:
        rows = choose_experiments(dataclasses.replace(SPLIT, data=data), ["inverse propensity"])
        return {e.name: e.changes["cold"]["propensity"] for e in rows if e.knows_propensities}

    quarter, whole = known("sim:4000"), known("sim:4000,position_exponent=1,request_size=3")
    assert quarter["as planted"][:3] == pytest.approx([1, 2**-0.25, 3**-0.25])
    assert whole == {name: pytest.approx([1, 1 / 2, 1 / 3]) for name in quarter}
    write_own(tmp_path)
    own = dataclasses.replace(SPLIT, data=str(tmp_path))
    names = [e.name for e in choose_experiments(own, ["inverse propensity"])]
    assert names == ["estimated"]
    with pytest.raises(ValueError, match="there is no part 'colour'"):
        choose_experiments(own, ["colour"])


@pytest.mark.parametrize("path", kept_studies("ablate"), ids=lambda path: path.stem)
def test_a_kept_ablation_goes_on_where_it_was(path, tmp_path) -> None:
    """Its trials have the fingerprints that they had, and its rows say what they are made of."""
    split, config, setting = kept_setting(path)
    results = ResultsFile(path=path, name="ablate", setting=setting)
    study = Study(split=split, config=config, work=tmp_path, results=results)
    known = {experiment.row: experiment for experiment in with_references(ABLATION)}
    seen = 0
    for name, row, seed, result in kept_seeds(path):
        if name in known:
            experiment = known[name]
            if experiment.knows_propensities:  # they are the kept log's
                experiment = dataclasses.replace(experiment, changes=row["changes"])
            assert study.trial(experiment, seed).fingerprint == result["fingerprint"], name
            about = {key: value for key, value in row.items() if key != "seeds"}
            assert json.loads(json.dumps(describe(experiment))) == about
            seen += 1
    assert seen >= 4
