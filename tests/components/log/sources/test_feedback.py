# SPDX-License-Identifier: Apache-2.0
"""What a simulated member does with a post: the draws, their probabilities and their density."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.log.sources.feedback import (
    ACTIONS,
    AFTER_CLICK,
    EXAMINED_ACTIONS,
    LONG_DWELL_MS,
    LONGEST_DWELL_MS,
    SKIP_MS,
    act,
    examination,
    log_likelihood,
    probabilities,
)
from components.log.sources.simulator_config import SimulatorConfig

RELEVANCE = st.floats(-12, 12)
SHARE = st.floats(0, 1)


def one(value: float) -> np.ndarray:
    return np.array([value])


def test_probabilities_are_those_of_the_draws() -> None:
    rng = np.random.default_rng(0)
    for relevance in (0.0, 2.0, 5.0):
        level, examined = np.full(200_000, relevance), np.full(200_000, 0.7)
        drawn, expected = act(rng, level, examined), probabilities(level, examined)
        for name in ACTIONS:
            p = expected[name][0]
            assert abs(drawn[name].mean() - p) < 5 * np.sqrt(p * (1 - p) / len(level)) + 1e-9


@settings(deadline=None)
@given(RELEVANCE, SHARE)
def test_an_action_that_wants_a_look_has_the_examinations_share(level: float, share: float) -> None:
    """And every probability is one; a post that nobody looks at is skipped."""
    some, whole = (probabilities(one(level), one(e)) for e in (share, 1.0))
    assert set(some) == set(ACTIONS)
    assert all(0 <= p[0] <= 1 for p in some.values())
    for name in EXAMINED_ACTIONS:
        assert some[name][0] == pytest.approx(share * whole[name][0])
    assert some["skip"][0] == pytest.approx(1 - share + share * whole["skip"][0])
    assert probabilities(one(level), one(0.0))["skip"][0] == 1


@settings(deadline=None)
@given(RELEVANCE, st.floats(0.01, 3))
def test_a_more_relevant_post_gets_more_and_is_skipped_less(level: float, more: float) -> None:
    before, after = (probabilities(one(x), one(0.8)) for x in (level, level + more))
    for name in EXAMINED_ACTIONS:
        assert after[name][0] >= before[name][0]
    assert after["skip"][0] <= before["skip"][0]


@settings(deadline=None)
@given(st.lists(st.tuples(RELEVANCE, SHARE), max_size=40), st.integers(0, 9))
def test_what_is_done_is_consistent(posts: list[tuple[float, float]], seed: int) -> None:
    relevance, examined = np.array(posts, np.float64).reshape(-1, 2).T
    acts = act(np.random.default_rng(seed), relevance, examined)
    assert list(acts) == [*ACTIONS, "dwell_ms"]
    assert all(values.shape == relevance.shape for values in acts.values())
    click, dwell_ms = acts["click"], acts["dwell_ms"]
    assert (acts["long_dwell"] == (dwell_ms >= LONG_DWELL_MS)).all()
    assert (acts["skip"] == ((click == 0) & (dwell_ms < SKIP_MS))).all()
    assert all((acts[name] <= click).all() for name in AFTER_CLICK)
    assert ((dwell_ms >= 0) & (dwell_ms <= LONGEST_DWELL_MS)).all()
    assert (click[examined == 0] == 0).all()


def test_examination_falls_with_the_position() -> None:
    config = SimulatorConfig(position_exponent=0.5)
    assert examination(np.array([0, 3, 8]), config).tolist() == [1, 1 / 2, 1 / 3]
    flat = SimulatorConfig(position_exponent=0.0)
    assert examination(np.arange(5), flat).tolist() == [1] * 5


@pytest.mark.parametrize(("relevance", "examined"), [(2.0, 0.7), (6.0, 0.2), (-3.0, 1.0)])
def test_the_density_of_all_that_may_happen_is_one(relevance: float, examined: float) -> None:
    """Each millisecond of dwell with each outcome; only a click is followed by anything."""
    dwell_ms = np.arange(LONGEST_DWELL_MS)
    total = 0.0
    for click, *after in [(0, 0, 0, 0), *product((1,), (0, 1), (0, 1), (0, 1))]:
        acts: dict[str, Any] = {"click": np.full(len(dwell_ms), click), "dwell_ms": dwell_ms}
        acts |= {n: np.full(len(dwell_ms), a) for n, a in zip(AFTER_CLICK, after, strict=True)}
        level = np.full(len(dwell_ms), relevance)
        # Where a dwell is as good as impossible its density is zero, and the log is not finite.
        with np.errstate(divide="ignore"):
            total += np.exp(log_likelihood(acts, level, np.full(len(dwell_ms), examined))).sum()
    assert total == pytest.approx(1, abs=2e-3)


def test_guesses_beside_each_other_are_those_alone() -> None:
    rng = np.random.default_rng(3)
    level, examined = np.linspace(-2, 6, 9), np.full(9, 0.8)
    acts = act(rng, level, examined)
    guesses = np.array([-1.0, 2.0, 5.0])
    wide = {name: values[:, None] for name, values in acts.items()}
    together = log_likelihood(wide, np.tile(guesses, (9, 1)), examined[:, None])
    assert together.shape == (9, 3)
    for place, guess in enumerate(guesses):
        alone = log_likelihood(acts, np.full(9, guess), examined)
        np.testing.assert_allclose(together[:, place], alone)
