# SPDX-License-Identifier: Apache-2.0
"""A sample stands for all shards; a model starts from its statistics or from earlier weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.training.data import open_loader
from components.training.start import cold_model, sample, warm_model
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.loader import Loader, LoaderConfig
from kernels.loader.reference import concatenate
from model import DCNv2Config, build_ranker
from model.checkpoint import save_model
from tests.shard_builders import write_shards
from tests.training_builders import NOISY, STILL, assert_equal

RANKERS = pytest.mark.parametrize("ranker", [STILL, DCNv2Config()], ids=["feed_sr", "dcnv2"])


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Six shards of 30 impressions."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, KUAIRAND, [10] * 18, shards=6)
    return open_loader(folder, KUAIRAND, LoaderConfig(batch=4))


@pytest.mark.parametrize(
    ("impressions", "shards"),
    [
        (1, [0]),
        (60, [0, 3]),
        (90, [0, 2, 4]),
        (91, [0, 1, 2, 3, 4, 5]),
        (10**6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_sample_is_whole_shards_evenly_spaced(
    loader: Loader, impressions: int, shards: list[int]
) -> None:
    packs = sample(loader, impressions)
    members = [pack.keys["member_id"][0] // 1_000_000 for pack in packs]
    assert members == shards
    assert all(pack.num_impressions == 30 for pack in packs)


@RANKERS
def test_a_cold_model_is_the_new_ranker_with_the_statistics_of_all_packs(
    loader: Loader, ranker
) -> None:
    packs = sample(loader)
    whole = concatenate(packs)
    expected = build_ranker(ranker, KUAIRAND, 3)
    plain = {name: value.clone() for name, value in expected.state_dict().items()}
    tensors = {n: torch.from_numpy(values) for n, values in whole.columns.items()}
    expected.fit_statistics(torch.from_numpy(whole.context_RC), tensors)
    model = cold_model(ranker, KUAIRAND, 3, packs)
    assert_equal(model.state_dict(), expected.state_dict())
    assert any(not torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    parameters = dict(model.named_parameters())
    assert all(torch.equal(value, plain[name]) for name, value in parameters.items())
    other = dict(cold_model(ranker, KUAIRAND, 4, packs).named_parameters())
    assert any(not torch.equal(value, other[name]) for name, value in parameters.items())


@RANKERS
def test_a_warm_model_is_the_one_that_was_saved_or_a_sentence(tmp_path: Path, ranker) -> None:
    saved = build_ranker(ranker, KUAIRAND, 5)
    save_model(tmp_path / "m", saved, {})
    assert_equal(warm_model(ranker, KUAIRAND, tmp_path / "m").state_dict(), saved.state_dict())
    with pytest.raises(ValueError, match=r"/m has another configuration than the run; start cold"):
        warm_model(NOISY, KUAIRAND, tmp_path / "m")
    with pytest.raises(ValueError, match="was trained with spec kuairand"):
        warm_model(ranker, SIMULATOR, tmp_path / "m")
    with pytest.raises(ValueError, match="no model at"):
        warm_model(ranker, KUAIRAND, tmp_path / "nowhere")
