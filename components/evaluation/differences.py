# SPDX-License-Identifier: Apache-2.0
"""Whether a served request and the same one made offline differ: features in a bit, scores at all.

It decides what is compared and what a difference is. Which requests are compared is
`components.evaluation.requests`' to say, and the offline path is `components.evaluation.replay`.

Shape suffixes: N candidates, C context columns, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.evaluation.replay import Replayed, forward_probabilities, rank_probabilities
from components.evaluation.requests import LoggedRequest
from components.layout.paths import Layout
from components.registry.gate import CANDIDATE
from feature_repo.spec import Freshness, Spec
from model.checkpoint import load_model
from model.ranker import Ranker
from serving.history import decode_history
from serving.wire import decode_candidates, to_numpy

Probabilities = npt.NDArray[np.float64]
FORWARD_CANDIDATES = 2
"""Candidates of a request that are also scored by the training forward, which costs a sequence
each.
"""
BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2}
"""How far a served probability may be from the offline one, which is float32's, by the dtype that
served: about 80 units in the last place of 1 (4 for bfloat16), for other orders and roundings.
"""


@dataclass
class Findings:
    """What was compared, and the largest difference of two scores of each kind."""

    requests: int = 0
    candidates: int = 0
    scored: int = 0
    served_difference: float = 0.0
    forward_difference: float = 0.0
    bound: float = 0.0


class Models:
    """The models that scored the requests, by version; the day's own by its folder's name."""

    def __init__(self, layout: Layout, day: str) -> None:
        self._layout = layout
        self._folders = {CANDIDATE: layout.model(day, CANDIDATE)}
        self._loaded: dict[str, tuple[Ranker, Freshness] | None] = {}

    def get(self, version: str) -> tuple[Ranker, Freshness] | None:
        """The ranker and its freshness; None for a version that is not registered any more."""
        if version not in self._loaded:
            folder = self._folders.get(version, self._layout.registry / "versions" / version)
            self._loaded[version] = self._load(folder) if folder.is_dir() else None
        return self._loaded[version]

    @staticmethod
    def _load(folder: Path) -> tuple[Ranker, Freshness]:
        ranker, record = load_model(folder)
        return ranker, record["freshness"]


def compare(
    spec: Spec, logged: LoggedRequest, replayed: Replayed, models: Models, findings: Findings
) -> None:
    """Compares one request: features bit for bit, scores within the bound.

    Raises:
        ValueError: a difference: which, of which member and post, both values.
    """
    served, context_NC = decode_candidates(spec, logged.candidates, len(logged.post_ids))
    _compare_history(spec, logged, replayed)
    for name, values in served.items():
        _compare_feature(logged, name, values, replayed.features[name])
    for name, columns in spec.context_slices.items():
        _compare_feature(logged, name, context_NC[:, columns], replayed.context_NC[:, columns])
    findings.requests += 1
    findings.candidates += len(logged.post_ids)
    model = models.get(logged.model_version)
    if model is not None:
        findings.scored += 1
        _compare_scores(spec, logged, replayed, model, findings)


def _compare_feature(
    logged: LoggedRequest, name: str, served: npt.NDArray[Any], offline: npt.NDArray[Any]
) -> None:
    """ValueError at the first candidate where `[N]` or `[N, E]` differ in a bit; NaN is NaN."""
    served, offline = (v if v.ndim == 2 else v[:, None] for v in (served, offline))
    same = (_bits(served) == _bits(offline)) | ((served != served) & (offline != offline))
    different = np.flatnonzero(~same.all(axis=1))
    if len(different):
        place = int(different[0])
        raise ValueError(
            f"parity: feature {name} of member {logged.member_id} and post "
            f"{logged.post_ids[place]}: serving had {_shown(served[place])}, "
            f"offline has {_shown(offline[place])}"
        )


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}")


def _shown(values: npt.NDArray[Any]) -> str:
    return str(values[0] if len(values) == 1 else values.tolist()[:8])


def _compare_history(spec: Spec, logged: LoggedRequest, replayed: Replayed) -> None:
    """ValueError unless the history value is the offline one, byte for byte.

    It names the first column that differs.
    """
    if logged.history == replayed.history:
        return
    served, offline = (decode_history(v, spec) for v in (logged.history, replayed.history))
    who = f"parity: history of member {logged.member_id}"
    if (served.count, served.start) != (offline.count, offline.start):
        raise ValueError(
            f"{who}: serving had {served.count} impressions, offline has {offline.count}"
        )
    for name in spec.history_schema.names:
        ours, theirs = (_numbers(history.batch.column(name)) for history in (served, offline))
        place = _first_difference(ours, theirs)
        if place is not None:
            post = served.batch.column("post_id")[place].as_py()
            raise ValueError(
                f"{who}: feature {name} of post {post}, impression {served.start + place}: "
                f"serving had {ours[place]}, offline has {theirs[place]}"
            )
    raise ValueError(f"{who}: the values' bytes differ, their columns do not")


def _first_difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> int | None:
    """The first row where two columns differ, NaN being NaN; None where they are the same."""
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    different = np.flatnonzero(~same.all(axis=tuple(range(1, same.ndim))))
    return int(different[0]) if len(different) else None


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    return to_numpy(values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values)


def _compare_scores(
    spec: Spec,
    logged: LoggedRequest,
    replayed: Replayed,
    model: tuple[Ranker, Freshness],
    findings: Findings,
) -> None:
    """Serving's scores against `rank` and `forward` on the offline inputs.

    Both sides see the same bytes on the same kind of processor, so what may differ is rounding.
    """
    ranker, freshness = model
    request = replayed.request(spec, logged.time_ms)
    served_NK = np.array(logged.probabilities, np.float64).reshape(len(logged.post_ids), -1)
    ranked_NK = rank_probabilities(ranker, freshness, request)
    bound = findings.bound = max(findings.bound, BOUNDS[logged.dtype])
    places = range(min(FORWARD_CANDIDATES, len(served_NK)))
    trained_NK = forward_probabilities(ranker, freshness, request, places)
    differences = [
        _compare_pair(spec, logged, "offline rank", (served_NK, ranked_NK), bound),
        _compare_pair(
            spec, logged, "training forward", (served_NK[: len(trained_NK)], trained_NK), bound
        ),
    ]
    findings.served_difference = max(findings.served_difference, differences[0])
    findings.forward_difference = max(findings.forward_difference, differences[1])


def _compare_pair(
    spec: Spec,
    logged: LoggedRequest,
    name: str,
    pair: tuple[Probabilities, Probabilities],
    bound: float,
) -> float:
    """The largest difference of served and other probabilities.

    Raises:
        ValueError: it is above the bound, or a NaN.
    """
    difference_NK = np.abs(pair[0] - pair[1])
    candidate, task = np.unravel_index(np.argmax(difference_NK), difference_NK.shape)
    worst = float(difference_NK[candidate, task])
    if not worst <= bound:
        raise ValueError(
            f"parity: score {spec.task_names[task]} of member {logged.member_id} and post "
            f"{logged.post_ids[candidate]}: serving had {pair[0][candidate, task]:.8f}, the "
            f"{name} has {pair[1][candidate, task]:.8f}, more than {bound:.1e} apart"
        )
    return worst
