# SPDX-License-Identifier: Apache-2.0
"""AUC over operations: they are counted as torch counts them, and a line is found again."""

import json
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.backtest.split import LogSplit
from components.config import load_config
from components.studies.config import changed, study_config
from components.studies.scaling import SIZES, Line, forward_flops, run, sized
from components.studies.trial import prepare_trial
from components.training.data import evaluation_batches
from model import build_ranker
from model.build import build
from tests.study_builders import kept_seeds, kept_setting, kept_studies

SPLIT = LogSplit(data="sim:3000", train_before="2026-01-12", test_through="2026-01-13")


@pytest.fixture(scope="module")
def done(tmp_path_factory, request) -> dict:
    patch = pytest.MonkeyPatch()
    patch.setattr("components.studies.scaling.SIZES", ((16, 1), (32, 2)))
    work = tmp_path_factory.mktemp("scaling")
    config = work / "small.json"
    small = {"spec_name": "simulator", "feed_sr": {"head": {"name": "linear"}}, "dcnv2": {}}
    config.write_text(json.dumps(small))
    assert run(SPLIT, 1, str(config), work / "study_scaling.json", work) == 0
    assert run(SPLIT, 1, str(config), work / "study_scaling.json", work) == 0
    patch.undo()
    return json.loads((work / "study_scaling.json").read_text())


def test_every_size_has_its_operations_and_larger_ones_more(done) -> None:
    rows = done["rows"]
    assert list(rows) == ["16 wide, 1 deep", "32 wide, 2 deep"]
    small, large = (row["seeds"]["0"]["training_flops"] for row in rows.values())
    assert large > 3 * small > 0


def test_the_sizes_span_two_orders_of_magnitude(tmp_path) -> None:
    start = study_config(load_config("demo"))
    ends = []
    for width, layers in (SIZES[0], SIZES[-1]):
        trial = sized(SPLIT, start, width, layers, 0)
        ranker = build(trial.learner.config, start.spec, 0)
        ends.append(ranker.training_flops(100, 60, 100 * 200))
    assert ends[1] / ends[0] > 100


def test_operations_are_those_that_torch_counts(tmp_path) -> None:
    """The linear layers, where torch's counter can see them; the last layer does more on paper."""
    start = changed(
        study_config(load_config("demo")), {"feed_sr": {"width": 16, "layers": 1, "heads": 1}}
    )
    trial = sized(SPLIT, start, 32, 2, 0)
    folder = prepare_trial(trial, tmp_path).train
    ranker = build_ranker(trial.learner.config, start.spec, 0)
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


def test_a_line_through_two_points_has_no_error() -> None:
    line = Line.fit([1e9, 1e11], [0.6, 0.7])
    assert (line.slope, line.at_one) == (pytest.approx(0.05), pytest.approx(0.15))
    assert math.isnan(line.slope_error)


@pytest.mark.parametrize("path", kept_studies("scaling"), ids=lambda path: path.stem)
def test_a_kept_study_goes_on_where_it_was(path) -> None:
    """Every one of its trials has the fingerprint that it had."""
    split, config, _ = kept_setting(path)
    for name, row, seed, result in kept_seeds(path):
        trial = sized(split, config, row["width"], row["layers"], seed)
        assert trial.fingerprint == result["fingerprint"], name
        assert name == f"{row['width']} wide, {row['layers']} deep"
