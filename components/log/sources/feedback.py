# SPDX-License-Identifier: Apache-2.0
"""What a simulated member does with a post, and the probabilities behind it.

A post at position p is examined with a known propensity; an examined one is clicked, dwelt on,
liked, commented on and shared by its relevance. One that is not examined is scrolled past: a skip.
This module knows nothing of members, posts or files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from components.log.sources.simulator_config import SimulatorConfig

Floats = npt.NDArray[np.floating[Any]]
LONG_DWELL_MS = 10_000
SKIP_MS = 3_000
LONGEST_DWELL_MS = 1_800_000
SCROLLED_MS = (200, 2500)
"""How long a post that is not examined stays on the screen."""
ACTIONS = ("click", "skip", "long_dwell", "like", "comment", "share")
EXAMINED_ACTIONS = ("click", "long_dwell", "like", "comment", "share")
"""Actions that only an examined post gets: their probability is the propensity times another."""

CLICK_BIAS = -4.0
DWELL_BIAS, DWELL_GAIN, DWELL_OF_CLICK, DWELL_SCALE = 7.5, 0.42, 1.1, 0.55
AFTER_CLICK = {"like": (-3.6, 0.6), "comment": (-5.8, 0.7), "share": (-5.2, 0.6)}


def examination(position: npt.NDArray[Any], config: SimulatorConfig) -> Floats:
    """The probability that a post at a feed position is looked at."""
    return np.asarray((1.0 + position) ** -config.position_exponent)


def sigmoid(logit: Floats) -> Floats:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def probabilities(relevance: Floats, examined: Floats) -> dict[str, Floats]:
    """The true probability of every action `[N]`, whether or not the post is examined.

    Args:
        relevance: logits `[N]`, the visit's mood included where it is known.
        examined: examination propensities `[N]`.
    """
    click = sigmoid(relevance + CLICK_BIAS)
    over = [_dwell_over(relevance, clicked, LONG_DWELL_MS) for clicked in (0, 1)]
    long_dwell = examined * ((1 - click) * over[0] + click * over[1])
    quick = (1 - click) * (1 - _dwell_over(relevance, 0, SKIP_MS))
    after = {
        name: examined * click * sigmoid(bias + gain * relevance)
        for name, (bias, gain) in AFTER_CLICK.items()
    }
    return {
        "click": examined * click,
        "skip": 1 - examined + examined * quick,
        "long_dwell": long_dwell,
        **after,
    }


def act(rng: np.random.Generator, relevance: Floats, examined: Floats) -> dict[str, Any]:
    """Draws what happens `[N]`: the six actions as int8 and `dwell_ms` as int32, consistent."""
    count = len(relevance)
    seen = rng.random(count) < examined
    click = seen & (rng.random(count) < sigmoid(relevance + CLICK_BIAS))
    log_ms = _log_dwell(relevance, click) + DWELL_SCALE * rng.logistic(size=count)
    dwell = np.where(
        seen,
        np.exp(np.minimum(log_ms, np.log(LONGEST_DWELL_MS))),
        rng.uniform(*SCROLLED_MS, count),
    ).astype(np.int32)
    acts = {
        "click": click,
        "skip": ~click & (dwell < SKIP_MS),
        "long_dwell": dwell >= LONG_DWELL_MS,
    }
    for name, (bias, gain) in AFTER_CLICK.items():
        acts[name] = click & (rng.random(count) < sigmoid(bias + gain * relevance))
    return {**{name: value.astype(np.int8) for name, value in acts.items()}, "dwell_ms": dwell}


def log_likelihood(acts: dict[str, Any], relevance: Floats, examined: Floats) -> Floats:
    """The log of the density of what `act` drew, summed over whether the post was examined.

    Args:
        acts: click, like, comment, share and dwell_ms, each `[N]` or `[N, 1]`.
        relevance: logits that the acts are held against, `[N]`, or `[N, G]` of G guesses.
        examined: examination propensities, of the acts' shape.

    Returns:
        float64 of the shape of `relevance`.
    """
    click, dwell_ms = np.asarray(acts["click"], np.float64), acts["dwell_ms"] + 0.5
    z = (np.log(dwell_ms) - _log_dwell(relevance, click)) / DWELL_SCALE
    density = np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))) ** 2 / (DWELL_SCALE * dwell_ms)
    longest = acts["dwell_ms"] >= LONGEST_DWELL_MS - 1
    seen = examined * np.where(longest, sigmoid(-z), density)
    seen = seen * _bernoulli(click, sigmoid(relevance + CLICK_BIAS))
    for name, (bias, gain) in AFTER_CLICK.items():
        done = _bernoulli(acts[name], sigmoid(bias + gain * relevance))
        seen = seen * np.where(click > 0, done, 1.0)
    low, high = SCROLLED_MS
    passed = (click == 0) & (acts["dwell_ms"] >= low) & (acts["dwell_ms"] < high)
    return np.asarray(np.log(seen + passed * (1 - examined) / (high - low)))


def _bernoulli(happened: Any, probability: Floats) -> Floats:
    return np.where(np.asarray(happened) > 0, probability, 1 - probability)


def _log_dwell(relevance: Floats, clicked: Any) -> Floats:
    return np.asarray(DWELL_BIAS + DWELL_GAIN * relevance + DWELL_OF_CLICK * clicked)


def _dwell_over(relevance: Floats, clicked: int, limit_ms: int) -> Floats:
    """P(dwell >= limit) of an examined post: the log of the dwell is logistic."""
    return sigmoid((_log_dwell(relevance, clicked) - np.log(limit_ms)) / DWELL_SCALE)
