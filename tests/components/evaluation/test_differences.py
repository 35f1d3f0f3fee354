# SPDX-License-Identifier: Apache-2.0
"""Any difference between a served request and the offline one is found and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.evaluation.differences import (
    BOUNDS,
    FORWARD_CANDIDATES,
    Findings,
    Models,
    compare,
)
from components.evaluation.replay import Replayed, rank_probabilities
from components.evaluation.requests import LoggedRequest
from components.layout.paths import Layout
from feature_repo.specs import SIMULATOR as SPEC
from model.checkpoint import save_model
from serving.history import decode_history, encode_history
from serving.wire import encode_candidates
from tests.run_builders import logged_request
from tests.serving_builders import NOW_MS, candidates, history_value, noisy_ranker

DAY = "2026-01-09"
COUNT = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A root whose day has a model."""
    layout = Layout.at(tmp_path_factory.mktemp("models"))
    save_model(layout.model(DAY, "feed_sr"), noisy_ranker(SPEC), {"freshness": "day"})
    return Models(layout, DAY)


def pair(**fields: object) -> tuple[LoggedRequest, Replayed]:
    """A served request and the same one made again."""
    features, context_NC = candidates(SPEC, COUNT, 1)
    history = history_value(SPEC, 12, 7)
    logged = logged_request(
        7,
        features["post_id"].tolist(),
        **{
            "time_ms": NOW_MS,
            "history": history,
            "candidates": encode_candidates(SPEC, features, context_NC),
            **fields,
        },
    )
    return logged, Replayed(history=history, features=features, context_NC=context_NC)


def scored(models: Models, **fields: object) -> tuple[LoggedRequest, Replayed]:
    """The same, scored by the day's model to the last bit."""
    logged, replayed = pair(model_version="feed_sr", **fields)
    model = models.get("feed_sr")
    assert model is not None
    served_NK = rank_probabilities(*model, replayed.request(SPEC, logged.time_ms))
    return dataclasses.replace(logged, probabilities=served_NK.ravel().tolist()), replayed


@pytest.mark.parametrize(
    "name", [*(f.name for f in SPEC.with_role("sequence")), *SPEC.context_slices]
)
def test_a_difference_in_any_feature_is_named(models: Models, name: str) -> None:
    """One bit of the last candidate, or a value where the other side has none."""
    logged, same = pair()
    compare(SPEC, logged, same, models, Findings())
    other = Replayed(
        history=same.history,
        features={n: v.copy() for n, v in same.features.items()},
        context_NC=same.context_NC.copy(),
    )
    if name in other.features:
        column = other.features[name].reshape(COUNT, -1)
    else:
        column = other.context_NC[:, SPEC.context_slices[name]]
    bits = column[2:, -1:].copy()
    bits.view(np.uint8)[0, 0] ^= 1
    absent = np.isnan(column[2, -1]) if column.dtype.kind == "f" else False
    column[2:, -1:] = 0 if absent else bits
    post = logged.post_ids[2]
    with pytest.raises(ValueError, match=f"feature {name} of member 7 and post {post}: serving"):
        compare(SPEC, logged, other, models, Findings())


def test_what_is_missing_on_both_sides_is_the_same_whatever_its_bits(models: Models) -> None:
    logged, same = pair()
    features, context_NC = dict(same.features), same.context_NC.copy()
    context_NC[:] = np.nan
    encoded = encode_candidates(SPEC, features, context_NC)
    other_nan = np.array([0x7FC00001], np.uint32).view(np.float32)[0]
    again = Replayed(
        history=same.history, features=features, context_NC=np.full_like(context_NC, other_nan)
    )
    compare(SPEC, dataclasses.replace(logged, candidates=encoded), again, models, Findings())


def test_a_history_of_another_length_says_both(models: Models) -> None:
    logged, same = pair(history=history_value(SPEC, 11, 7))
    with pytest.raises(ValueError, match="serving had 11 impressions, offline has 12"):
        compare(SPEC, logged, same, models, Findings())


def test_a_column_of_a_history_that_differs_is_named_with_its_impression(models: Models) -> None:
    logged, same = pair()
    history = decode_history(same.history, SPEC)
    place = history.batch.schema.get_field_index("position")
    field = SPEC.history_schema.field(place)
    position = history.batch.column(place).to_numpy(zero_copy_only=False).copy()
    position[4] += 1
    changed = history.batch.set_column(place, field, pa.array(position, field.type))
    value = encode_history(changed, member_id=7, count=12, spec=SPEC)
    post = history.batch.column("post_id")[4].as_py()
    told = f"history of member 7: feature position of post {post}, impression 4: serving had"
    with pytest.raises(ValueError, match=told):
        compare(SPEC, dataclasses.replace(logged, history=value), same, models, Findings())


def test_a_request_of_a_model_that_is_gone_is_compared_without_scores(models: Models) -> None:
    findings = Findings()
    compare(SPEC, *pair(model_version="2026-01-01-deadbeef"), models, findings)
    assert (findings.requests, findings.candidates, findings.scored) == (1, COUNT, 0)
    assert findings.bound == 0.0


def test_what_was_scored_alike_is_counted_with_the_largest_difference(models: Models) -> None:
    findings = Findings()
    logged, replayed = scored(models)
    compare(SPEC, logged, replayed, models, findings)
    assert findings.served_difference == 0.0
    assert findings.forward_difference < 1e-6
    nearly = [p + 4e-6 for p in logged.probabilities]
    compare(SPEC, dataclasses.replace(logged, probabilities=nearly), replayed, models, findings)
    assert findings.served_difference == pytest.approx(4e-6, rel=1e-3)
    compare(SPEC, logged, replayed, models, findings)
    assert findings.served_difference == pytest.approx(4e-6, rel=1e-3), "the largest stays"
    assert (findings.requests, findings.scored, findings.bound) == (3, 3, BOUNDS["float32"])


@pytest.mark.parametrize("wrong", [2e-5, -2e-5, float("nan")])
@pytest.mark.parametrize("candidate", [0, COUNT - 1])
def test_one_score_that_is_off_is_named(models: Models, wrong: float, candidate: int) -> None:
    """The last candidate is beyond those that the training forward scores."""
    assert candidate == 0 or candidate >= FORWARD_CANDIDATES
    logged, replayed = scored(models)
    probabilities = list(logged.probabilities)
    probabilities[candidate * len(SPEC.tasks) + 1] += wrong
    told = (
        f"score {SPEC.task_names[1]} of member 7 and post {logged.post_ids[candidate]}: "
        "serving had .*, the offline rank has .*, more than 1.0e-05 apart"
    )
    changed = dataclasses.replace(logged, probabilities=probabilities)
    with pytest.raises(ValueError, match=told):
        compare(SPEC, changed, replayed, models, Findings())


def test_a_lower_dtype_may_round_more(models: Models) -> None:
    logged, replayed = scored(models, dtype="bfloat16")
    rounded = dataclasses.replace(logged, probabilities=[p + 0.02 for p in logged.probabilities])
    findings = Findings()
    compare(SPEC, rounded, replayed, models, findings)
    assert findings.bound == BOUNDS["bfloat16"]
    assert findings.served_difference == pytest.approx(0.02)


def test_a_model_is_loaded_once_and_by_the_version_s_name(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    version = layout.registry / "versions" / "v1"
    save_model(version, noisy_ranker(SPEC), {"freshness": "30m"})
    models = Models(layout, DAY)
    loaded = models.get("v1")
    assert loaded is not None
    assert loaded[1] == "30m"
    assert models.get("v1") is loaded
    assert models.get("feed_sr") is None, "the day has no model"
    assert models.get("v2") is None
