# SPDX-License-Identifier: Apache-2.0
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.backtest.backtest import BacktestOptions, backtest, default_work, ranker_configs
from components.backtest.prepare import (
    Prepared,
    config_for,
    prepare,
)
from components.backtest.split import Split, write_test, write_train
from components.config import PROFILES
from components.layout.files import write_parquet
from components.layout.paths import Layout
from components.log.sources import detect_source
from components.studies.trial import Log
from components.training.data import evaluation_batches
from feature_repo.spec import FRESHNESS, Freshness
from feature_repo.specs import SIMULATOR
from model import FeedSRConfig, build_ranker
from model.build import RANKERS
from tests.loop_builders import small_config

LOG = "sim:4000"
BEFORE, THROUGH = "2026-01-12", "2026-01-13"
CONFIG = small_config()


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backtest")


@pytest.fixture(scope="module")
def config_file(work) -> str:
    path = work / "small.json"
    path.write_text(CONFIG.model_dump_json())
    return str(path)


def split_at(freshness: Freshness) -> Split:
    return Split(train_before=BEFORE, test_through=THROUGH, freshness=freshness, spec=SIMULATOR)


@pytest.fixture(scope="module")
def ingested(work) -> Layout:
    """The log of the backtests below, up to its shards."""
    prepare(LOG, work, split_at("day"), CONFIG)
    return Layout.at(work)


@pytest.fixture(scope="module")
def result(work, config_file) -> dict:
    options = BacktestOptions(config=config_file, seeds=2, work=work)
    return backtest(LOG, BEFORE, THROUGH, options, work / "result.json")


def test_the_result_has_every_ranker_and_task_and_says_how_it_was_made(result, work) -> None:
    text = (work / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == result
    assert set(result["rankers"]) == {"feed_sr", "dcnv2"}
    for tasks in result["rankers"].values():
        assert set(tasks) == set(SIMULATOR.task_names)
        for of in tasks.values():
            assert set(of) == {"auc", "log_loss", "ece", "n", "positives"}
    settings_, first = result["settings"], result["rankers"]["feed_sr"]["click"]
    assert (settings_["train_before"], settings_["test_through"]) == (BEFORE, THROUGH)
    assert settings_["config"]["freshness"] == "day"
    assert settings_["data"] == LOG
    each = [run["rankers"]["feed_sr"]["click"]["auc"] for run in result["seeds"]]
    assert first["auc"] == pytest.approx(np.mean(each))
    assert result["spread"]["feed_sr"]["click"]["auc"] == pytest.approx(np.std(each, ddof=1))
    assert each[0] != each[1]


def test_the_test_rows_are_those_of_the_test_days(result, work) -> None:
    days = [SIMULATOR.day_number(d) for d in (BEFORE, THROUGH)]
    served = 0
    for path in Path(work).glob("impressions/day=*/part.parquet"):
        day = SIMULATOR.day(pq.read_table(path)["event_time"].to_numpy())
        served += int(((day >= days[0]) & (day <= days[1])).sum())
    assert result["rankers"]["dcnv2"]["click"]["n"] == served


def test_a_second_run_reuses_every_stage_and_gives_the_same(result, work, config_file) -> None:
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.arrow")}
    options = BacktestOptions(config=config_file, seeds=2, work=work)
    again = backtest(LOG, BEFORE, THROUGH, options)
    assert again["rankers"] == result["rankers"]
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*.arrow")} == before


def test_other_freshness_makes_other_shards_and_sees_more(ingested, work) -> None:
    known = {}
    for freshness in FRESHNESS:
        prepared = prepare(LOG, work, split_at(freshness), CONFIG)
        known[freshness] = sum(k.sum() for k in columns(prepared.test, "known"))
    assert known["day"] < known["30m"] < known["immediate"]


def columns(folder: Path, name: str) -> list[np.ndarray]:
    return [packed.columns[name] for _, packed in evaluation_batches(folder, SIMULATOR)]


def test_training_stops_where_the_test_begins(ingested, work) -> None:
    prepared = prepare(LOG, work, split_at("day"), CONFIG)
    limit = SIMULATOR.day_start(SIMULATOR.day_number(BEFORE))
    assert max(t.max() for t in columns(prepared.train, "event_time")) < limit
    targets = [
        packed.columns["event_time"][batch.target_R.numpy()]
        for batch, packed in evaluation_batches(prepared.test, SIMULATOR)
    ]
    assert np.concatenate(targets).min() >= limit


@pytest.mark.law
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    freshness=st.sampled_from(FRESHNESS),
    share=st.floats(0.75, 1.0),
    ranker=st.sampled_from([CONFIG.feed_sr, CONFIG.dcnv2]),
)
def test_nothing_known_later_reaches_a_score(
    ingested, tmp_path_factory, freshness, share, ranker
) -> None:
    """Law 4: other actions in what arrives from a time on move no score of an earlier cutoff."""
    files = [ingested.impressions_day(d) for d in ingested.impression_days()]
    times = np.concatenate([pq.read_table(f)["arrival_time"].to_numpy() for f in files])
    now = int(np.quantile(times, share))
    changed = other_future(ingested, Layout.at(tmp_path_factory.mktemp("changed")), now)
    split = split_at(freshness)
    model = build_ranker(ranker, SIMULATOR, seed=3).eval()
    scores = []
    for layout in (ingested, changed):
        folder = layout.root / "law"
        write_test(layout, folder, split)
        scores.append(scored(model, folder, split, now))
    before = scores[0][0] <= now
    np.testing.assert_array_equal(scores[0][1][before], scores[1][1][before])
    if 0 < before.sum() < len(before) and share < 0.9:
        assert (scores[0][1][~before] != scores[1][1][~before]).any()
    if now >= SIMULATOR.day_start(SIMULATOR.day_number(BEFORE)):
        for layout in (ingested, changed):
            write_train(layout, layout.root / "law-train", split)
        one, two = (sorted((x.root / "law-train").glob("*")) for x in (ingested, changed))
        assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def other_future(layout: Layout, copy: Layout, now: int) -> Layout:
    """The log with every action turned over in what arrives from `now` on."""
    for path in (layout.posts, layout.members):
        os.link(path, copy.root / path.name)
    for day in layout.impression_days():
        table = pq.read_table(layout.impressions_day(day))
        late = table["arrival_time"].to_numpy() >= now
        for name in SIMULATOR.task_names:
            place, old = table.schema.get_field_index(name), table[name].to_numpy()
            new = np.where(late & (old >= 0), 1 - old, old).astype(np.int8)
            table = table.set_column(place, table.schema.field(name), [new])
        write_parquet(copy.impressions_day(day), table)
    return copy


def scored(model, folder: Path, split: Split, now: int) -> tuple[np.ndarray, np.ndarray]:
    """The cutoff and the logits of every target."""
    cutoffs, logits = [], []
    for batch, packed in evaluation_batches(folder, split.spec):
        time_ms = packed.columns["event_time"][batch.target_R.numpy()]
        cutoffs.append(split.spec.cutoff(time_ms, split.freshness))
        with torch.no_grad():
            logits.append(model(batch).logits_RK.numpy())
    return np.concatenate(cutoffs), np.concatenate(logits)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((LOG, "2026-01-32", THROUGH), {}, "'2026-01-32' is not a day"),
        ((LOG, BEFORE, "2026-01-11"), {}, "the test ends on 2026-01-11, before it begins"),
        ((LOG, "2026-01-01", THROUGH), {}, "the log holds 2026-01-05 to 2026-01-13"),
        ((LOG, BEFORE, "2026-03-01"), {}, "2026-03-01 is not after the last"),
        ((LOG, BEFORE, THROUGH), {"rankers": ("feed_sr", "lgbm")}, "'lgbm'; have feed_sr, dcnv2"),
        ((LOG, BEFORE, THROUGH), {"rankers": ()}, "name at least one ranker"),
        ((LOG, BEFORE, THROUGH), {"freshness": "hour"}, "want one of day, 30m, immediate"),
        ((LOG, BEFORE, THROUGH), {"seeds": 0}, "seeds is 0"),
        (("sim:x", BEFORE, THROUGH), {}, "write sim: and how many impressions"),
        (("sim:", BEFORE, THROUGH), {}, "write sim: and how many impressions"),
        (("/nowhere", BEFORE, THROUGH), {}, "there is no folder /nowhere"),
        ((LOG, BEFORE, THROUGH), {"config": "big"}, "there is no configuration 'big'"),
    ],
)
def test_a_mistake_is_one_sentence(work, arguments, options, sentence) -> None:
    where = work if arguments[0] == LOG else work / "other"
    with pytest.raises(ValueError, match=sentence) as error:
        backtest(*arguments, BacktestOptions(**{"work": where, **options}))
    assert "\n" not in str(error.value)


def test_a_result_that_cannot_be_written_is_told_before_any_work(tmp_path) -> None:
    (tmp_path / "file").touch()
    options = BacktestOptions(work=tmp_path / "work")
    with pytest.raises(OSError, match="file"):
        backtest(LOG, BEFORE, THROUGH, options, tmp_path / "file" / "result.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_log_of_your_own_must_name_its_configuration(tmp_path) -> None:
    for name in ("impressions.parquet", "posts.parquet", "members.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="name the configuration whose spec"):
        config_for(str(tmp_path), "")
    assert config_for(str(tmp_path), "demo").spec_name == "simulator"
    assert config_for("sim:10", "").spec_name == "simulator"


def test_each_log_has_a_folder_of_its_own(tmp_path) -> None:
    names = {default_work(str(tmp_path / n)) for n in ("a/log", "b/log", "sim:10")}
    assert len(names) == 3
    assert all(n.parts[:2] == ("runs", "backtest") for n in names)


@pytest.mark.kuairand
@pytest.mark.skipif(not os.environ.get("FEEDSR_KUAIRAND"), reason="FEEDSR_KUAIRAND is not set")
def test_kuairand_is_cut_as_its_readme_says(tmp_path) -> None:
    config = config_for(os.environ["FEEDSR_KUAIRAND"], "")
    split = Split(
        train_before="2022-05-04", test_through="2022-05-05", freshness="day", spec=config.spec
    )
    prepared: Prepared = prepare(os.environ["FEEDSR_KUAIRAND"], tmp_path, split, config)
    train, test = (prepared.stages[p.name] for p in (prepared.train, prepared.test))
    assert train["targets"] == pytest.approx(150_214, rel=0.005)
    assert test["targets"] == pytest.approx(30_281, rel=0.005)
    assert train["auxiliary"] == pytest.approx(817_187, rel=0.001)


def test_a_log_in_a_folder_whose_name_begins_with_a_tilde_is_named_and_missed_in_words() -> None:
    data = "~nobody that there is"
    assert default_work(data).name.startswith("nobody-that-there-is-")
    log = Log(data=data, train_before="2026-01-02", test_through="2026-01-03")
    assert log.name == data
    with pytest.raises(ValueError, match=r"there is no folder .*~nobody that there is"):
        detect_source(data)


def test_a_backtest_knows_every_ranker_and_those_of_the_loop_as_configured() -> None:
    config = PROFILES["kuairand"].model_copy(update={"feed_sr": FeedSRConfig(width=32)})
    chosen = ranker_configs(config, tuple(RANKERS))
    assert {name: made.ranker for name, made in chosen.items()} == {n: n for n in RANKERS}
    assert chosen["feed_sr"] == config.feed_sr
    assert chosen["ligr"] == RANKERS["ligr"][0].model_validate({})
    with pytest.raises(ValueError, match="no ranker 'svd'; have feed_sr, dcnv2, lirank"):
        ranker_configs(config, ("ligr", "svd"))
