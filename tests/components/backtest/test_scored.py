# SPDX-License-Identifier: Apache-2.0
"""Scores beside the rows they belong to: each target once, in order, at the asked position."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from components.backtest.scored import scored_batches
from components.training.data import evaluation_batches
from model import DCNv2Config, build_ranker
from serving.predictor.rank_batch import SERVING_POSITION
from tests.builders import TINY
from tests.shard_builders import write_shards

LENGTHS = [3, 1, 9, 5] * 20 + [1, 2]


@pytest.fixture
def ranker() -> torch.nn.Module:
    """One whose scores depend on the position where a post is shown."""
    ranker = build_ranker(DCNv2Config(), TINY).eval()
    with torch.no_grad():
        table = dict(ranker.named_parameters())["offsets.offset_PK"]
        table.copy_(torch.arange(len(table))[:, None] * 0.5)
    return ranker


@pytest.mark.parametrize("position", [SERVING_POSITION, 0, None])
def test_each_target_has_its_logits_and_its_row(
    ranker, tmp_path, position, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("FEEDSR_PROGRESS", "events")
    monkeypatch.setattr("components.console.EVENT_SECONDS", 0.0)
    write_shards(tmp_path, TINY, LENGTHS, shards=2)
    batches = list(scored_batches(ranker, tmp_path, TINY, position))
    members = []
    for scored, (batch, packed) in zip(batches, evaluation_batches(tmp_path, TINY), strict=True):
        if position is not None:
            batch.position_R.fill_(position)
        with torch.no_grad():
            expected = ranker(batch).logits_RK.numpy()
        np.testing.assert_allclose(scored.logits_RK, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(scored.target_R, batch.target_R.numpy())
        np.testing.assert_array_equal(scored.rows.labels_RK, batch.labels_RK.numpy())
        np.testing.assert_array_equal(scored.packed.keys["member_id"], packed.keys["member_id"])
        starts = packed.cu_seqlens
        for s, (low, high) in enumerate(pairwise(starts.tolist())):
            mine = (scored.target_R >= low) & (scored.target_R < high)
            assert (scored.member_R[mine] == packed.keys["member_id"][s]).all()
            assert (scored.rows.sequence_R[mine] == s).all()
        members.append(scored.member_R)
    assert len(batches) == 2
    assert len(np.unique(np.concatenate(members))) == len([n for n in LENGTHS if n > 1])
    out = capsys.readouterr().out.splitlines()
    assert (
        f'"label": "score {tmp_path.name}", "done": {len(LENGTHS)}, "total": {len(LENGTHS)}'
        in out[-1]
    )


def test_without_an_asked_position_it_is_the_serving_one(ranker, tmp_path) -> None:
    write_shards(tmp_path, TINY, [9, 5], shards=1)
    served, asked = (
        next(iter(scored_batches(ranker, tmp_path, TINY, *where))).logits_RK
        for where in ((), (SERVING_POSITION,))
    )
    np.testing.assert_array_equal(served, asked)


def test_sequences_without_a_target_have_no_rows(ranker, tmp_path) -> None:
    write_shards(tmp_path, TINY, [1, 1, 1], shards=1)
    (scored,) = scored_batches(ranker, tmp_path, TINY)
    assert scored.logits_RK.shape == scored.rows.labels_RK.shape == (0, len(TINY.task_names))
    assert scored.member_R.shape == scored.target_R.shape == scored.rows.sequence_R.shape == (0,)
    assert {mask.shape for mask in scored.rows.segments.values()} == {(0,)}


def test_a_folder_without_shards_is_one_sentence(ranker, tmp_path) -> None:
    with pytest.raises(ValueError, match="there are no shards in"):
        next(scored_batches(ranker, tmp_path, TINY))
