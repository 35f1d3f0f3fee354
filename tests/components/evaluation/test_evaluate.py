# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.config import DailyConfig, GateConfig, TrainConfig
from components.evaluation.evaluate import SERVING_POSITION, evaluate, evaluate_ranker, segments
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import gate
from components.registry.run import Run
from components.training.data import evaluation_batches
from components.training.run import TrainingRun
from feature_repo.specs import KUAIRAND, SIMULATOR
from kernels.streaming_metrics.reference import exact_auc
from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.checkpoint import load_model, save_model
from tests.builders import TINY
from tests.shard_builders import random_lengths, write_shards

DAY = "2026-01-08"
HEAD = HeadConfig(width=32, hidden=1, cross=1)
RECIPE = TrainConfig(global_batch=32, micro_batch=32, epochs=6, learning_rate=1e-2)
CONFIG = DailyConfig(
    spec_name="simulator",
    feed_sr=FeedSRConfig(width=32, layers=1, heads=2, head=HEAD, embedding_dropout=0.0),
    dcnv2=DCNv2Config(head=HEAD),
    cold=RECIPE,
    gate=GateConfig(min_over_baseline=-0.05, max_calibration_error=0.15),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Layout:
    """A day's shards with something to learn in them, and both rankers trained on them."""
    layout = Layout.at(tmp_path_factory.mktemp("day"))
    write_shards(layout.sequences("train", DAY), SIMULATOR, random_lengths(400), seed=0)
    write_shards(layout.sequences("eval", DAY), SIMULATOR, random_lengths(150, 1), seed=1)
    for name, config in (("feed_sr", CONFIG.feed_sr), ("dcnv2", CONFIG.dcnv2)):
        folder = layout.model(DAY, name)
        TrainingRun(
            shards=layout.sequences("train", DAY),
            out=folder,
            ranker=config,
            spec=SIMULATOR,
            config=RECIPE,
            freshness="day",
        ).train()
    return layout


@pytest.mark.parametrize(("noise", "scale"), [(0.3, 1.0), (0.0, 1e-2)], ids=["wide", "narrow"])
def test_a_ranker_is_scored_on_every_target_as_the_definition_says(tmp_path, noise, scale) -> None:
    """One that scores everything nearly alike too; the first sequences have no target."""
    write_shards(tmp_path, TINY, [1] * 64 + random_lengths(70, mean=30), shards=1)
    ranker = build_ranker(DCNv2Config(head=HEAD), TINY).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight.add_(noise * torch.randn(weight.shape, generator=generator)).mul_(scale)
    got = evaluate_ranker(ranker, tmp_path, TINY)
    logits, labels = [], []
    for batch, _ in evaluation_batches(tmp_path, TINY, sequences=7):
        object.__setattr__(batch, "position_R", torch.full_like(batch.position_R, SERVING_POSITION))
        with torch.no_grad():
            logits.append(ranker(batch).logits_RK.numpy())
        labels.append(batch.labels_RK.numpy())
    score, label = np.concatenate(logits), np.concatenate(labels)
    for k, task in enumerate(TINY.task_names):
        measured = got.tasks[task]
        assert measured.n == len(label)
        assert measured.positives == label[:, k].sum()
        assert (np.ptp(score[:, k]) < 0.01) == (scale < 1)
        # The batches are others, so scores differ by rounding, and near ties may swap.
        assert measured.auc == pytest.approx(exact_auc(score[:, k], label[:, k]), abs=1e-4)
    json.dumps(got.plain(), allow_nan=False)


def test_history_segments_share_out_every_target(tmp_path) -> None:
    lengths = [5, 30, 120, 400]
    write_shards(tmp_path, TINY, lengths, shards=1)
    ranker = build_ranker(DCNv2Config(head=HEAD), TINY)
    result = evaluate_ranker(ranker, tmp_path, TINY)
    task = TINY.task_names[0]
    by_length = {n: s[task].n for n, s in result.segments.items() if n.startswith("history")}
    assert sum(by_length.values()) == result.tasks[task].n
    assert all(n > 0 for n in by_length.values())


@pytest.mark.parametrize("spec", [SIMULATOR, KUAIRAND], ids=lambda s: s.name)
def test_new_posts_are_a_segment_of_every_shipped_spec(spec, tmp_path) -> None:
    write_shards(tmp_path, spec, [8, 9], shards=1)
    batch, _ = next(iter(evaluation_batches(tmp_path, spec)))
    age = spec.context_slices["post_age_hours"].start
    shown = spec.context_slices["post_impressions"].start
    batch.context_RC[:, age] = torch.tensor([1.0, 23.9, 24.0, 200.0, torch.nan]).repeat(20)[
        : len(batch.context_RC)
    ]
    batch.context_RC[:, shown] = torch.tensor([0.0, 1.0, torch.nan]).repeat(20)[
        : len(batch.context_RC)
    ]
    masks = segments(batch, spec)
    assert masks["posts of the last day"][:5].tolist() == [True, True, False, False, False]
    assert masks["posts never shown before"][:3].tolist() == [True, False, True]


def test_the_logged_position_does_not_move_a_score(tmp_path) -> None:
    """Serving does not know the position, so the evaluation must not profit from it."""
    write_shards(tmp_path, TINY, random_lengths(40))
    ranker = build_ranker(DCNv2Config(head=HEAD), TINY)
    plain = evaluate_ranker(ranker, tmp_path, TINY)
    with torch.no_grad():
        table = dict(ranker.named_parameters())["offsets.offset_PK"]
        table.copy_(torch.randn(table.shape[0], 1) * 5)
        table[SERVING_POSITION] = 0
    assert evaluate_ranker(ranker, tmp_path, TINY).tasks == plain.tasks


def test_the_day_is_written_with_every_ranker_and_again_the_same(trained) -> None:
    metrics = evaluate(trained, DAY, CONFIG)
    path = trained.run(DAY) / "metrics.json"
    first = path.read_bytes()
    assert strict(first) == metrics.plain()
    assert Run(trained, DAY).metrics == metrics
    assert set(metrics.rankers) == {"feed_sr", "dcnv2"}
    assert metrics.production is None
    assert metrics.model == versions.model_hash(trained.model(DAY, "feed_sr"))
    assert set(metrics.drift) >= {"post_impressions", "post_age_hours"}
    evaluate(trained, DAY, CONFIG)
    assert path.read_bytes() == first


def test_a_trained_model_passes_and_shuffled_weights_are_refused(trained, tmp_path) -> None:
    evaluate(trained, DAY, CONFIG)
    verdict = gate(trained, DAY, CONFIG)
    assert verdict.passed, verdict.reasons
    folder = trained.model(DAY, "feed_sr")
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    try:
        spoil(folder)
        evaluate(trained, DAY, CONFIG)
        refused = gate(trained, DAY, CONFIG)
    finally:
        for name, value in kept.items():
            (folder / name).write_bytes(value)
    assert not refused.passed
    assert any("AUC of long_dwell" in reason for reason in refused.reasons)
    assert refused.model != verdict.model


def test_a_model_that_has_diverged_is_evaluated_and_refused(trained) -> None:
    folder = trained.model(DAY, "feed_sr")
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    try:
        model, record = load_model(folder)
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        save_model(folder, model, record)
        evaluate(trained, DAY, CONFIG)
        reasons = gate(trained, DAY, CONFIG).reasons
        for name in ("metrics", "gate"):
            strict((trained.run(DAY) / f"{name}.json").read_bytes())
    finally:
        for name, value in kept.items():
            (folder / name).write_bytes(value)
    assert any("AUC of long_dwell could not be measured" in reason for reason in reasons)


def strict(text: bytes) -> dict:
    """What every reader of JSON reads; Python's own would take NaN as well."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def spoil(folder: Path) -> None:
    """Shuffles each weight matrix of a saved model."""
    model, record = load_model(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].view_as(weight))
    save_model(folder, model, record)


def test_the_model_in_production_is_compared(trained, tmp_path) -> None:
    evaluate(trained, DAY, CONFIG)
    gate(trained, DAY, CONFIG)
    version = versions.register(trained, DAY, CONFIG)
    versions.promote(trained, version)
    later = "2026-01-09"
    for split in ("train", "eval"):
        target = trained.sequences(split, later)
        target.symlink_to(trained.sequences(split, DAY))
    for name in ("feed_sr", "dcnv2"):
        trained.model(later, name).parent.mkdir(parents=True, exist_ok=True)
        trained.model(later, name).symlink_to(trained.model(DAY, name))
    metrics = evaluate(trained, later, CONFIG)
    assert metrics.production == version
    assert metrics.rankers["production"] == metrics.rankers["feed_sr"]
    names = {c.name for c in gate(trained, later, CONFIG).checks}
    assert "AUC of long_dwell over production" in names


def test_mistakes_are_one_sentence(trained, tmp_path) -> None:
    ranker = build_ranker(DCNv2Config(head=HEAD), TINY)
    with pytest.raises(ValueError, match="no shards in"):
        evaluate_ranker(ranker, tmp_path, TINY)
    with pytest.raises(ValueError, match="build the sequences again"):
        evaluate_ranker(ranker, trained.sequences("eval", DAY), TINY)
    layout = Layout.at(tmp_path)
    with pytest.raises(ValueError, match="feed_sr"):
        evaluate(layout, DAY, CONFIG)


def test_shards_without_a_target_are_refused(tmp_path) -> None:
    write_shards(tmp_path, TINY, [1, 1], shards=1)
    with pytest.raises(ValueError, match="hold nothing to score"):
        evaluate_ranker(build_ranker(DCNv2Config(head=HEAD), TINY), tmp_path, TINY)
