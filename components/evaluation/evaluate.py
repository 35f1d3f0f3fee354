# SPDX-License-Identifier: Apache-2.0
"""Next-day evaluation: the day's candidate, the baseline and the model in production, on one day.

Every ranker scores the same shards in one pass, with features and histories as fresh as the shards
were built and at the feed position that serving assumes, because that is how it would have ranked.
Whether the numbers are good enough is the gate's to say; nothing here knows a threshold.

Shape suffixes: R targets of a batch; K tasks; C context columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from components.config import DailyConfig
from components.console import progress
from components.evaluation.drift import drift
from components.evaluation.scorecard import Rows, Scorecard
from components.layout.paths import Layout
from components.registry import versions
from components.registry.gate import BASELINE, CANDIDATE, PRODUCTION
from components.registry.metrics import DayMetrics, FeatureDrift, RankerMetrics
from components.registry.plan import plan
from components.registry.run import Run
from components.training.data import evaluation_batches, open_loader, shard_paths
from components.training.distributed import this_device
from feature_repo.kinds import Feature
from feature_repo.spec import Spec
from kernels.loader import LoaderConfig, Packed, ShardFormat, read_shard
from model.batch import TrainBatch
from model.checkpoint import load_model
from serving.predictor.rank_batch import SERVING_POSITION

HISTORY_LENGTHS = ((0, 9), (10, 49), (50, 199), (200, None))
"""Segments of members, by how many of their impressions were known when they were served."""
SAMPLE = 50_000
"""Rows of context taken from training and from the day to compare their distributions."""
SAMPLE_SHARDS = 16

Bools = npt.NDArray[np.bool_]
Rankers = Mapping[str, nn.Module]


def evaluate(layout: Layout, day: str, config: DailyConfig) -> DayMetrics:
    """Scores the day with every ranker and writes `runs/<day>/metrics.json`.

    Returns:
        What was written.

    Raises:
        ValueError: a model or the shards are missing or do not fit the spec, or there is nothing to
            score.
    """
    spec = config.spec
    rankers, production, note = _rankers(layout, day, config)
    metrics = DayMetrics(
        day=day,
        model=versions.model_hash(layout.model(day, CANDIDATE)),
        production=production,
        production_note=note,
        spec_hash=spec.hash,
        freshness=config.freshness,
        position=SERVING_POSITION,
        rankers=evaluate_rankers(rankers, layout.sequences("eval", day), spec),
        drift=_drift(layout, day, spec),
    )
    Run(layout, day).write(metrics)
    return metrics


def evaluate_ranker(ranker: nn.Module, folder: Path, spec: Spec) -> RankerMetrics:
    """What is measured of one ranker over a folder of shards; see `evaluate_rankers`."""
    return evaluate_rankers({"ranker": ranker}, folder, spec)["ranker"]


def evaluate_rankers(rankers: Rankers, folder: Path, spec: Spec) -> dict[str, RankerMetrics]:
    """Scores every target of the shards with each ranker, a batch at a time.

    Raises:
        ValueError: there are no shards, they do not fit the spec, or they hold no target.
    """
    cards = {name: Scorecard(spec.task_names) for name in rankers}
    total, scored = open_loader(folder, spec, LoaderConfig(batch=1)).sequences, 0
    with progress("evaluate, members", total) as advance:
        for batch, packed in evaluation_batches(folder, spec):
            rows = score_rows(batch, packed, spec)
            scored += len(rows.sequence_R)
            for name, ranker in rankers.items():
                cards[name].update(served_logits(ranker, batch), rows)
            advance(packed.num_sequences)
    if not scored:
        raise ValueError(f"the shards in {folder} hold nothing to score: that day has no log")
    return {name: card.result() for name, card in cards.items()}


def segments(batch: TrainBatch, spec: Spec) -> dict[str, Bools]:
    """Which targets belong to which segment, boolean `[R]` by name."""
    known_R = batch.impressions.known_M[batch.target_R].numpy()
    masks = {}
    for low, high in HISTORY_LENGTHS:
        masks[segment_name(low, high)] = (known_R >= low) & (high is None or known_R <= high)
    context_RC = batch.context_RC.numpy()
    for feature in spec.with_role("context"):
        column_R = context_RC[:, spec.context_slices[feature.name].start]
        if feature.source == "age":
            masks["posts of the last day"] = column_R < 24
        if feature.source == "post_popularity" and _counts_impressions(feature):
            masks["posts never shown before"] = ~(column_R > 0)
    return masks


def segment_name(low: int, high: int | None) -> str:
    """What the segment of members with so many known impressions is called."""
    return f"history {low} or more" if high is None else f"history {low} to {high}"


def _counts_impressions(feature: Feature) -> bool:
    counter = feature.counter
    assert counter is not None
    return counter.of == "impression" and not counter.rate and counter.days is None


def score_rows(batch: TrainBatch, packed: Packed, spec: Spec) -> Rows:
    """What a scorecard wants to know of a batch's targets."""
    sequence_M = np.repeat(np.arange(packed.num_sequences), packed.lengths_S)
    return Rows(
        labels_RK=batch.labels_RK.numpy(),
        sequence_R=sequence_M[batch.target_R.numpy()],
        segments=segments(batch, spec),
    )


@torch.inference_mode()
def served_logits(
    ranker: nn.Module, batch: TrainBatch, position: int | None = SERVING_POSITION
) -> npt.NDArray[np.float32]:
    """The ranker's logits `[R, K]` at the position that serving assumes, or at another.

    Args:
        position: of every target; None is where each was shown.
    """
    ranker.eval()
    device = next(ranker.parameters()).device
    if position is not None:
        position_R = torch.full_like(batch.position_R, position)
        batch = dataclasses.replace(batch, position_R=position_R)
    return ranker(batch.to(device)).logits_RK.float().cpu().numpy()


def _rankers(layout: Layout, day: str, config: DailyConfig) -> tuple[Rankers, str | None, str]:
    """The rankers to compare, the version in production when the day was planned, and a note."""
    device = this_device()
    folders = {name: layout.model(day, name) for name in (CANDIDATE, BASELINE)}
    production = plan(layout, day, config).production
    note = "" if production else "no model was in production"
    if production:
        record = versions.version_record(layout, production)
        if record.spec_hash == config.spec.hash:
            folders[PRODUCTION] = versions.version_folder(layout, production)
        else:
            note = f"{production} was trained with another feature spec and cannot score this one"
    loaded = {name: load_model(path, config.spec)[0].to(device) for name, path in folders.items()}
    return loaded, production, note


def _drift(layout: Layout, day: str, spec: Spec) -> dict[str, FeatureDrift]:
    train_RC, eval_RC = (_sample(layout.sequences(s, day), spec) for s in ("train", "eval"))
    return drift(train_RC, eval_RC, spec)


def _sample(folder: Path, spec: Spec) -> npt.NDArray[np.float32]:
    """About `SAMPLE` rows of context `[rows, C]`, evenly from shards spread over the folder."""
    paths = shard_paths(folder)
    chosen = paths[:: -(-len(paths) // SAMPLE_SHARDS)]
    form = ShardFormat(columns={}, context_width=spec.context_width)
    parts = []
    for path in chosen:
        context_RC = read_shard(path, form).context_RC
        step = max(len(context_RC) * len(chosen) // SAMPLE, 1)
        parts.append(context_RC[::step])
    return np.concatenate(parts)
