# SPDX-License-Identifier: Apache-2.0
"""Boosters on the same shards: what they see, what decides their rounds, how they are scored."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.evaluation.evaluate import evaluate_ranker
from components.studies.lightgbm.ranker import LightGBMConfig, LightGBMRanker, _read, fit_lightgbm
from components.training.data import evaluation_batches
from feature_repo.specs import SIMULATOR
from model import DCNv2Config, build_ranker
from tests.builders import TINY, make_rank_batch, make_train_batch
from tests.rival_builders import join, request_of
from tests.shard_builders import random_lengths, write_shards

QUICK = LightGBMConfig(rounds=30, learning_rate=0.2, num_leaves=7, patience=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards to train on and to evaluate, click depending on the feed position."""
    root = tmp_path_factory.mktemp("shards")
    write_shards(root / "train", SIMULATOR, random_lengths(800), seed=0)
    write_shards(root / "eval", SIMULATOR, random_lengths(300, 1), seed=1)
    return root / "train", root / "eval"


@pytest.fixture(scope="module")
def ranker(folders: tuple[Path, Path]) -> LightGBMRanker:
    pytest.importorskip("lightgbm")
    return fit_lightgbm(folders[0], SIMULATOR, QUICK)


def test_its_scorecard_has_the_form_of_every_rankers(
    folders: tuple[Path, Path], ranker: LightGBMRanker
) -> None:
    got = evaluate_ranker(ranker, folders[1], SIMULATOR)
    other = evaluate_ranker(build_ranker(DCNv2Config(), SIMULATOR), folders[1], SIMULATOR)
    assert got.segments.keys() == other.segments.keys()
    for task in SIMULATOR.task_names:
        assert got.tasks[task].n == other.tasks[task].n
        assert (got.tasks[task].ece or 0) < 0.1
    json.dumps(got.plain(), allow_nan=False)


def test_it_learns_what_the_position_says_and_is_scored_without_it(
    folders: tuple[Path, Path], ranker: LightGBMRanker
) -> None:
    """In these shards a click depends on the logged position, which serving does not know."""
    labels, logits = [], []
    for batch, _ in evaluation_batches(folders[1], SIMULATOR):
        labels.append(batch.labels_RK[:, 0])
        logits.append(ranker(batch).logits_RK[:, 0])
    label, logit = torch.cat(labels), torch.cat(logits)
    wins = (logit[label == 1][:, None] > logit[label == 0]).float().mean()
    assert wins > 0.57
    scored = evaluate_ranker(ranker, folders[1], SIMULATOR).tasks["click"].auc
    assert scored is not None
    assert scored < wins - 0.03


def test_rank_gives_what_forward_gives(ranker: LightGBMRanker) -> None:
    batch = make_train_batch(SIMULATOR, 1, [9, 12])
    requests = join([request_of(batch, [r]) for r in range(len(batch.target_R))])
    assert torch.equal(ranker.rank(requests), ranker(batch).logits_RK)
    assert ranker.rank(make_rank_batch(SIMULATOR, 1, [3], [0])).shape == (0, 6)


def test_the_same_shards_make_the_same_boosters_on_any_number_of_threads(
    folders: tuple[Path, Path],
) -> None:
    pytest.importorskip("lightgbm")
    batch, logits = make_train_batch(SIMULATOR, 1, [9, 12]), []
    for threads in (1, 2):
        config = QUICK.model_copy(update={"threads": threads, "rounds": 3, "holdout": 0.0})
        logits.append(fit_lightgbm(folders[0], SIMULATOR, config)(batch).logits_RK)
    assert torch.equal(*logits)


def test_held_out_members_decide_the_rounds(folders: tuple[Path, Path]) -> None:
    """Almost nothing can be learned of rare labels: the search ends long before `rounds`."""
    pytest.importorskip("lightgbm")
    fixed = QUICK.model_copy(update={"holdout": 0.0})
    assert set(fit_lightgbm(folders[0], SIMULATOR, fixed).rounds.values()) == {QUICK.rounds}
    searched = fit_lightgbm(folders[0], SIMULATOR, QUICK.model_copy(update={"holdout": 0.3}))
    assert all(1 <= n <= QUICK.rounds for n in searched.rounds.values())
    assert min(searched.rounds.values()) < QUICK.rounds


def test_a_member_is_held_out_whole_and_about_as_many_as_asked(tmp_path: Path) -> None:
    write_shards(tmp_path, TINY, [6] * 800)
    held = _read(tmp_path, TINY, 0.25).held_R
    per_member = []
    for batch, packed in evaluation_batches(tmp_path, TINY, sequences=10_000):
        member = np.repeat(packed.keys["member_id"], packed.lengths_S)[batch.target_R]
        for each in np.unique(member):
            per_member.append(set(held[member == each].tolist()))
    assert all(len(states) == 1 for states in per_member)
    assert sum(True in states for states in per_member) == pytest.approx(200, abs=50)
    assert not _read(tmp_path, TINY, 0.0).held_R.any()


def test_a_task_without_both_labels_keeps_its_prior(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    path = write_shards(tmp_path, TINY, [12] * 60, shards=1)[0]
    table = pa.ipc.open_file(str(path)).read_all()
    for name, value in (("like", 0), ("skip", -1)):
        column = [[value] * len(row) for row in table[name].to_pylist()]
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(column, table[name].type))
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=256)
    ranker = fit_lightgbm(tmp_path, TINY, QUICK)
    assert ranker.rounds["click"] >= 1
    assert (ranker.rounds["like"], ranker.rounds["skip"]) == (0, 0)
    rates = ranker(make_train_batch(TINY, 1, [9])).logits_RK.sigmoid()
    assert 0 < rates[:, 1].max() < 0.001
    torch.testing.assert_close(rates[:, 2], torch.full_like(rates[:, 2], TINY.tasks[2].prior))


def test_shards_without_a_target_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    write_shards(tmp_path, TINY, [1, 1])
    with pytest.raises(ValueError, match="hold no target"):
        fit_lightgbm(tmp_path, TINY, QUICK)


def test_without_lightgbm_one_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ValueError, match=r"pip install 'feedsr\[study\]'"):
        fit_lightgbm(tmp_path, TINY)
