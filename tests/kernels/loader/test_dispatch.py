# SPDX-License-Identifier: Apache-2.0
"""Who packs: the fastest there is, or the one that is named; it is said once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from components.training.data import shard_format
from feature_repo.specs import KUAIRAND
from kernels.loader import Loader, LoaderConfig, dispatch, native, read_shard
from kernels.loader.native import NativePacker
from tests.kernels.loader.packs import needs_native
from tests.shard_builders import write_shards

MODULE, _REASON = native.available()


def test_the_choice_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dispatch._say.cache_clear()
    paths = write_shards(tmp_path, KUAIRAND, [3], shards=1)
    with caplog.at_level(logging.INFO, "kernels.loader.dispatch"):
        for _ in range(2):
            Loader(paths, shard_format(KUAIRAND), LoaderConfig(batch=1))
    chosen = "NumPy" if MODULE is None else "native"
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [f"loader: {chosen}"]


def test_a_native_loader_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda: (None, "FEEDSR_NATIVE=off"))
    paths = write_shards(tmp_path, KUAIRAND, [3], shards=1)
    with pytest.raises(ValueError, match="the native loader is not there: FEEDSR_NATIVE=off"):
        Loader(paths, shard_format(KUAIRAND), LoaderConfig(batch=1, implementation="native"))
    (batch,) = Loader(paths, shard_format(KUAIRAND), LoaderConfig(batch=9)).epoch()
    assert (
        batch.columns["event_time"].tolist()
        == read_shard(paths[0], shard_format(KUAIRAND)).columns["event_time"].tolist()
    )


@pytest.mark.skipif(
    torch.accelerator.is_available(),
    reason="needs a machine without a GPU; pinning is covered here",
)
def test_pinned_memory_without_a_gpu_is_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, KUAIRAND, [3], shards=1)
    with pytest.raises(ValueError, match="pin is for a GPU"):
        Loader(paths, shard_format(KUAIRAND), LoaderConfig(batch=1, pin=True))


def test_the_one_that_is_named_packs() -> None:
    assert isinstance(dispatch.choose(1, False, "numpy"), dispatch.NumpyPacker)
    assert isinstance(dispatch.choose(1, False), NativePacker) == (MODULE is not None)


@needs_native
def test_the_native_one_packs_with_as_many_threads_as_are_said() -> None:
    packer = dispatch.choose(3, False, "native")
    assert isinstance(packer, NativePacker)
    assert (packer.threads, packer.pin) == (3, False)
