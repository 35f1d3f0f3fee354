# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from components.drift import drift, stability
from feature_repo.spec import Embedding, Numeric
from feature_repo.specs import SIMULATOR

CODES = [f for f in SIMULATOR.with_role("context") if not isinstance(f.kind, Numeric | Embedding)]


def context(seed: int, rows: int = 4_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, SIMULATOR.context_width)).astype(np.float32)
    for feature in CODES:
        matrix[:, SIMULATOR.context_slices[feature.name]] = rng.integers(0, 5, (rows, 1))
    return matrix


def test_two_samples_of_one_distribution_are_stable() -> None:
    found = drift(context(0), context(1), SIMULATOR)
    assert max(of["psi"] for of in found.values()) < 0.02
    embeddings = {f.name for f in SIMULATOR.with_role("context") if isinstance(f.kind, Embedding)}
    assert set(found) == {f.name for f in SIMULATOR.with_role("context")} - embeddings


def test_it_finds_the_feature_that_moved_and_the_one_that_went_missing() -> None:
    later = context(1)
    later[:, SIMULATOR.context_slices["post_impressions"]] += 1.5
    later[:2_000, SIMULATOR.context_slices["post_age_hours"]] = np.nan
    found = drift(context(0), later, SIMULATOR)
    assert found["post_impressions"]["psi"] > 0.25
    assert found["post_age_hours"]["eval"][-1] == 0.5
    assert sum(of["psi"] > 0.25 for of in found.values()) == 2


def test_codes_are_their_own_bins_and_shares_sum_to_one() -> None:
    later = context(1)
    name = CODES[0].name
    later[:, SIMULATOR.context_slices[name]] = 7
    of = drift(context(0), later, SIMULATOR)[name]
    assert len(of["train"]) == 6 + 1
    assert of["eval"][5] == 1.0
    for shares in (of["train"], of["eval"]):
        assert sum(shares) == pytest.approx(1)


def test_a_feature_that_is_always_missing_or_constant_is_no_error() -> None:
    train, later = context(0), context(1)
    for matrix in (train, later):
        matrix[:, SIMULATOR.context_slices["post_age_hours"]] = np.nan
        matrix[:, SIMULATOR.context_slices["post_impressions"]] = 3
    found = drift(train, later, SIMULATOR)
    assert found["post_age_hours"]["psi"] == found["post_impressions"]["psi"] == 0


def test_the_index_is_the_published_formula() -> None:
    train, later = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    want = (0.4 - 0.5) * np.log(0.4 / 0.5) + (0.4 - 0.3) * np.log(0.4 / 0.3)
    assert stability(train, later) == pytest.approx(want)
