# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.config import load_config
from components.studies.config import changed, study_config
from components.studies.figures import scaling_figure
from components.studies.scaling import SIZES, Line, forward_flops, run, sized
from components.studies.tables import scaling_table
from components.studies.trial import Log, shards
from components.training.data import evaluation_batches
from model import build_ranker
from model.build import build

LOG = Log(data="sim:3000", train_before="2026-01-12", test_through="2026-01-13")


@pytest.fixture(scope="module")
def done(tmp_path_factory, request) -> dict:
    patch = pytest.MonkeyPatch()
    patch.setattr("components.studies.scaling.SIZES", ((16, 1), (32, 2)))
    work = tmp_path_factory.mktemp("scaling")
    config = work / "small.json"
    small = {"spec_name": "simulator", "feed_sr": {"head": {"name": "linear"}}, "dcnv2": {}}
    config.write_text(json.dumps(small))
    assert run(LOG, 1, str(config), work / "study_scaling.json", work) == 0
    assert run(LOG, 1, str(config), work / "study_scaling.json", work) == 0
    patch.undo()
    return json.loads((work / "study_scaling.json").read_text())


def test_every_size_has_its_operations_and_larger_ones_more(done) -> None:
    rows = done["rows"]
    assert list(rows) == ["16 wide, 1 deep", "32 wide, 2 deep"]
    small, large = (row["seeds"]["0"]["training_flops"] for row in rows.values())
    assert large > 3 * small > 0


def test_the_table_ends_with_the_line(done) -> None:
    table = scaling_table(done, "click")
    assert table.count("\n") == 2 + 2 + 2
    assert "ten times" in table


def test_the_figure_has_a_point_a_size_and_is_the_same_again(done) -> None:
    figure = scaling_figure(done, "click")
    assert figure == scaling_figure(done, "click")
    assert "32 wide, 2 deep" in figure
    assert "for ten times as many" in figure


def test_the_sizes_span_two_orders_of_magnitude(tmp_path) -> None:
    start = study_config(load_config("demo"))
    ends = []
    for width, layers in (SIZES[0], SIZES[-1]):
        trial = sized(LOG, start, width, layers, 0)
        ranker = build(trial.ranker, start.spec, 0)
        ends.append(ranker.training_flops(100, 60, 100 * 200))
    assert ends[1] / ends[0] > 100


def test_operations_are_those_that_torch_counts(tmp_path) -> None:
    """The linear layers, where torch's counter can see them; the last layer does more on paper."""
    start = changed(
        study_config(load_config("demo")), {"feed_sr": {"width": 16, "layers": 1, "heads": 1}}
    )
    trial = sized(LOG, start, 32, 2, 0)
    folder, _ = shards(trial, tmp_path)
    ranker = build_ranker(trial.ranker, start.spec, 0)
    counter = FlopCounterMode(display=False)
    attention = 0
    with counter, torch.no_grad():
        for batch, _ in evaluation_batches(folder, start.spec):
            ranker(batch)
            known_M = batch.impressions.known_M.long()
            attention += 4 * 32 * 2 * int((4 * known_M + 3).sum())
    counted = counter.get_total_flops() + attention
    assert counted < forward_flops(ranker, folder, start.spec) < 1.6 * counted


def test_a_line_is_found_again_with_its_error() -> None:
    rng = np.random.default_rng(0)
    x = 10 ** np.linspace(9, 12, 40)
    line = Line.fit(x, 0.6 + 0.009 * np.log10(x) + 0.002 * rng.normal(size=40))
    assert line.slope == pytest.approx(0.009, abs=3 * line.slope_error)
    assert 0 < line.slope_error < 0.001
    with pytest.raises(ValueError, match="at least two sizes"):
        Line.fit([1e9, 1e9], [0.6, 0.7])


def test_a_seed_without_an_auc_is_no_point_of_the_line(done) -> None:
    """One class on the test day, or a training that diverged."""
    both = json.loads(json.dumps(done))
    task = {"click": {"auc": None}}
    for row in both["rows"].values():
        row["seeds"]["1"] = {"training_flops": 1e15, "tasks": task}
    assert scaling_figure(both, "click") == scaling_figure(done, "click")
    assert (
        scaling_table(both, "click").splitlines()[-1]
        == scaling_table(done, "click").splitlines()[-1]
    )
    for row in both["rows"].values():
        row["seeds"] = {"1": row["seeds"]["1"]}
    for made in (scaling_figure, scaling_table):
        with pytest.raises(ValueError, match="at least two sizes"):
            made(both, "click")
