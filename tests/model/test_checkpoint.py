# SPDX-License-Identifier: Apache-2.0
"""Checkpoints come back the same, say in one sentence what is wrong, and execute nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from feature_repo.specs import KUAIRAND
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.checkpoint import load_model, save_model
from model.files import load_optimizer_tensors, optimizer_tensors, parse_tensors, tensor_bytes
from model.ranker import Ranker
from tests.builders import TINY, make_rank_batch, make_train_batch

HEAD = HeadConfig(width=8, hidden=1, cross=1, rank=4)
SMALL = FeedSRConfig(width=8, layers=1, heads=2, head=HEAD)


@pytest.fixture
def ranker() -> Ranker:
    return build_ranker(SMALL, TINY, seed=3)


@pytest.fixture
def folder(tmp_path: Path, ranker: Ranker) -> Path:
    save_model(tmp_path / "model", ranker, {"epochs": 2})
    return tmp_path / "model"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plant(folder: Path, content: bytes) -> None:
    """Other weights, with the checksum that makes them look right."""
    (folder / "model.safetensors").write_bytes(content)
    edit_config(folder, weights_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("config", [SMALL, DCNv2Config(head=HEAD)])
def test_round_trip(tmp_path: Path, config: FeedSRConfig | DCNv2Config) -> None:
    ranker = build_ranker(config, TINY, seed=3).eval()
    batch = make_train_batch(TINY, 0, [30])
    features = {**batch.impressions.features, **batch.impressions.actions}
    ranker.fit_statistics(batch.context_RC, features)
    save_model(tmp_path / "a" / "model", ranker, {"loss": 0.5, "days": ["2022-05-01"]})
    loaded, record = load_model(tmp_path / "a" / "model", TINY)
    assert record == {"loss": 0.5, "days": ["2022-05-01"]}
    assert loaded.config == config
    assert not loaded.training
    requests = make_rank_batch(TINY, 1, [5, 0], [3, 2])
    assert torch.equal(loaded.rank(requests), ranker.rank(requests))
    assert sorted(p.name for p in (tmp_path / "a").rglob("*")) == [
        "config.json", "model", "model.safetensors",
    ]  # fmt: skip


def test_the_spec_comes_by_name_and_is_written_out(tmp_path: Path) -> None:
    ranker = build_ranker(SMALL, KUAIRAND)
    save_model(tmp_path / "model", ranker, {})
    loaded, _ = load_model(tmp_path / "model")
    assert loaded.spec == KUAIRAND
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["spec"] == json.loads(KUAIRAND.to_json())


def test_another_spec_is_refused_by_both_hashes(folder: Path) -> None:
    other = dataclasses.replace(TINY, block=32)
    with pytest.raises(ValueError, match=rf"{TINY.hash}.*{other.hash}"):
        load_model(folder, other)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model at"):
        load_model(tmp_path / "nothing", TINY)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"cannot read .*{name}: No such file"):
        load_model(folder, TINY)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(folder, TINY)


def test_truncated_weights_with_a_checksum_of_their_own(folder: Path) -> None:
    plant(folder, (folder / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a safetensors file or is damaged"):
        load_model(folder, TINY)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_damaged_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder, TINY)


def test_unknown_ranker(folder: Path) -> None:
    edit_config(folder, ranker="gpt")
    with pytest.raises(ValueError, match=r"ranker 'gpt', this version knows feed_sr, dcnv2"):
        load_model(folder, TINY)


def test_unknown_option(folder: Path) -> None:
    edit_config(folder, config=SMALL.model_dump() | {"depth": 3})
    with pytest.raises(ValueError, match=r"config\.depth"):
        load_model(folder, TINY)


@pytest.mark.parametrize("unsaid", ["action_token", "head"])
def test_a_default_never_fills_what_is_not_said(folder: Path, unsaid: str) -> None:
    kept = SMALL.model_dump()
    kept[unsaid] = {"width": 8, "cross": 1} if unsaid == "head" else None
    edit_config(folder, config={name: value for name, value in kept.items() if value is not None})
    with pytest.raises(ValueError, match=rf"config\.{unsaid} is not whole: another version"):
        load_model(folder, TINY)


def test_wrong_shapes_and_names(folder: Path, ranker: Ranker) -> None:
    state = ranker.state_dict()
    plant(folder, tensor_bytes(state | {"norm.weight": torch.zeros(3)}, {}))
    with pytest.raises(ValueError, match=r"'norm.weight' is \[3\], the configuration says \[8\]"):
        load_model(folder, TINY)
    plant(folder, tensor_bytes(state | {"extra": torch.zeros(3)}, {}))
    with pytest.raises(ValueError, match="has a tensor 'extra'"):
        load_model(folder, TINY)
    del state["norm.weight"]
    plant(folder, tensor_bytes(state, {}))
    with pytest.raises(ValueError, match=r"has no tensor 'norm\.weight'"):
        load_model(folder, TINY)


class Trap:
    """What a pickle of it executes on loading: it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.law
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_planted_pickle_is_not_executed(folder: Path, tmp_path: Path, kind: str) -> None:
    sprung = tmp_path / "sprung"
    weights = folder / "model.safetensors"
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"a": Trap(sprung)}, weights)
    content = weights.read_bytes()
    with pytest.raises(ValueError, match="damaged"):
        load_model(folder, TINY)
    plant(folder, content)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(folder, TINY)
    with pytest.raises(ValueError, match="not a safetensors file"):
        parse_tensors(content, weights)
    assert not sprung.exists()
    if kind == "pickle":
        pickle.loads(content).close()
        assert sprung.exists(), "the trap itself must work"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write a file beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_model(folder: Path, ranker: Ranker) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = build_ranker(SMALL, TINY, seed=9)
    with largest_file(4096), pytest.raises(ValueError, match=r"cannot write .*File too large"):
        save_model(folder, other, {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    load_model(folder, TINY)


def test_a_folder_in_the_way_of_a_file(tmp_path: Path, ranker: Ranker) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        save_model(tmp_path / "file" / "model", ranker, {})


def test_saving_again_replaces(folder: Path) -> None:
    other = build_ranker(SMALL, TINY, seed=9)
    save_model(folder, other, {"epochs": 3})
    loaded, record = load_model(folder, TINY)
    assert record == {"epochs": 3}
    assert torch.equal(loaded.state_dict()["norm.weight"], other.state_dict()["norm.weight"])
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_killed_between_the_two_renames_the_old_one_is_found(folder: Path, ranker: Ranker) -> None:
    folder.rename(folder.with_name(".model.previous"))
    assert load_model(folder, TINY)[1] == {"epochs": 2}
    save_model(folder, ranker, {"epochs": 3})
    assert load_model(folder, TINY)[1] == {"epochs": 3}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_an_optimiser_goes_on_where_it_was(tmp_path: Path) -> None:
    batch = make_train_batch(TINY, 0, [20, 10])

    def step(ranker: Ranker, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        output = ranker(batch)
        (output.logits_RK.square().mean() + output.auxiliary_AK.square().mean()).backward()
        optimizer.step()

    def make() -> tuple[Ranker, torch.optim.Optimizer]:
        ranker = build_ranker(SMALL, TINY, seed=3).eval()
        return ranker, torch.optim.AdamW(ranker.parameters(), lr=1e-2, fused=True)

    straight, optimizer = make()
    for _ in range(2):
        step(straight, optimizer)
    save_model(tmp_path / "model", straight, {})
    kept = tensor_bytes(optimizer_tensors(optimizer), {"step": 2})
    step(straight, optimizer)

    resumed, optimizer = make()
    resumed.load_state_dict(load_model(tmp_path / "model", TINY)[0].state_dict())
    tensors, record = parse_tensors(kept, tmp_path)
    assert record == {"step": 2}
    load_optimizer_tensors(optimizer, tensors)
    step(resumed, optimizer)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
