# SPDX-License-Identifier: Apache-2.0
"""How much a visit's mood is worth on a simulated log, and how much of it feedback can reveal.

All impressions of a visit share a mood (`SimulatorConfig.mood`, on the logit). Whoever ranks a
later request of the visit with feedback of the earlier ones can infer it; whoever ranks the whole
visit before its first feedback cannot. From the truth alone; it knows no ranker and no shards.

Shape suffixes: N impressions; Q requests; G guesses of the mood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.layout.paths import Layout
from components.log.sources.feedback import (
    ACTIONS,
    CLICK_BIAS,
    log_likelihood,
    probabilities,
)
from components.log.sources.simulator import truth_day
from kernels.streaming_metrics import StreamingMetrics

Columns = dict[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
GUESSES = 41
WIDEST = 4.0
"""Guesses of the mood are spaced evenly within so many standard deviations."""
CHUNK_ROWS = 20_000
FEEDBACK = ("click", "like", "comment", "share", "dwell_ms")
"""The columns of the truth that say what a member did."""
TINY = 1e-9


def mood_aucs(layout: Layout, days: Iterable[str]) -> dict[str, dict[str, float]]:
    """AUCs of the truth over the visits begun on some days, by action.

    Returns:
        By action: without (the mood at 0), feedback (the mood's posterior, given all feedback of
        the same visit that had arrived when the request was served: no ranker can know more), and
        with (the mood known); revealed = feedback - without, planted = with - without.

    Raises:
        FileNotFoundError: a day has no truth.
    """
    metrics = {name: StreamingMetrics(len(ACTIONS)) for name in ("without", "feedback", "with")}
    for day in days:
        truth = _columns(truth_day(layout, day))
        labels = np.stack([truth[action] for action in ACTIONS], 1).astype(np.float32)
        chances = {
            "without": np.stack([truth[f"b_{action}"] for action in ACTIONS], 1),
            "feedback": expected_actions(truth),
            "with": np.stack([truth[f"p_{action}"] for action in ACTIONS], 1),
        }
        for name, chance in chances.items():
            metrics[name].update(_logit(chance).astype(np.float32), labels)
    aucs = {name: each.auc() for name, each in metrics.items()}
    return {action: _worth(aucs, k) for k, action in enumerate(ACTIONS)}


def _worth(aucs: Mapping[str, Floats], k: int) -> dict[str, float]:
    """The AUCs of one action, and what feedback and the mood itself add to the first."""
    worth = {name: float(values[k]) for name, values in aucs.items()}
    worth["revealed"] = worth["feedback"] - worth["without"]
    worth["planted"] = worth["with"] - worth["without"]
    return worth


def expected_actions(truth: Columns) -> npt.NDArray[np.float64]:
    """The probability of each action given the visit's feedback so far, float64 `[N, actions]`.

    Args:
        truth: the columns of `truth_day`.
    """
    if not len(truth["visit_id"]):
        return np.zeros((0, len(ACTIONS)))
    _, first, visit_N = np.unique(truth["visit_id"], return_index=True, return_inverse=True)
    spread = float(np.sqrt(np.mean(np.square(truth["mood"][first], dtype=np.float64))))
    guess_G = np.linspace(-WIDEST, WIDEST, GUESSES) * spread
    prior_G = np.exp(-0.5 * np.linspace(-WIDEST, WIDEST, GUESSES) ** 2)
    request_N, posterior_QG = _posterior(truth, visit_N, guess_G, prior_G / prior_G.sum())
    expected = np.empty((len(request_N), len(ACTIONS)))
    for rows in _chunks(len(expected)):
        level, examined = _relevance(truth)[rows, None] + guess_G, _examined(truth)[rows, None]
        by_guess = probabilities(level, examined)
        weight = posterior_QG[request_N[rows]]
        expected[rows] = np.stack([(weight * by_guess[a]).sum(1) for a in ACTIONS], 1)
    return expected


def _posterior(
    truth: Columns, visit_N: Ints, guess_G: Floats, prior_G: Floats
) -> tuple[Ints, Floats]:
    """The request of each impression, and `[Q, G]` what its visit's mood was then thought to be."""
    pairs = np.stack([visit_N, truth["event_time"]], 1)
    request_Q2, first_Q, request_N = np.unique(
        pairs, axis=0, return_index=True, return_inverse=True
    )
    request_N = request_N.reshape(-1)
    told_QG = _likelihood(truth, request_N, guess_G)
    visit_Q, time_Q = request_Q2.T
    arrival_Q = truth["arrival_time"][first_Q]
    known_QG = np.zeros_like(told_QG)
    for back in range(1, int(np.bincount(visit_Q).max())):
        same = visit_Q[back:] == visit_Q[:-back]
        told = same & (arrival_Q[:-back] < time_Q[back:])
        known_QG[back:] += told[:, None] * told_QG[:-back]
    weight = prior_G * np.exp(known_QG - known_QG.max(1, keepdims=True))
    return request_N, weight / weight.sum(1, keepdims=True)


def _likelihood(truth: Columns, request_N: Ints, guess_G: Floats) -> Floats:
    """The log-likelihood of each request's feedback under each guess, `[Q, G]`."""
    told_QG = np.zeros((int(request_N.max()) + 1, len(guess_G)))
    for rows in _chunks(len(request_N)):
        acts = {name: truth[name][rows, None] for name in FEEDBACK}
        level, examined = _relevance(truth)[rows, None] + guess_G, _examined(truth)[rows, None]
        np.add.at(told_QG, request_N[rows], log_likelihood(acts, level, examined))
    return told_QG


def _chunks(rows: int) -> Iterator[slice]:
    """Slices of CHUNK_ROWS that cover so many rows."""
    for low in range(0, rows, CHUNK_ROWS):
        yield slice(low, low + CHUNK_ROWS)


def _examined(truth: Columns) -> npt.NDArray[np.float64]:
    """The probability that an impression was looked at."""
    return np.asarray(truth["examination"], np.float64)


def _relevance(truth: Columns) -> npt.NDArray[np.float64]:
    """The logit without mood, from the probability of a click that was written down."""
    click = truth["b_click"].astype(np.float64) / truth["examination"]
    return _logit(click) - CLICK_BIAS


def _logit(p: Floats) -> npt.NDArray[np.float64]:
    p = np.clip(np.asarray(p, np.float64), TINY, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p))


def _columns(table: pa.Table) -> Columns:
    return {name: table[name].to_numpy() for name in table.column_names}
