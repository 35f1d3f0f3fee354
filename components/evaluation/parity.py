# SPDX-License-Identifier: Apache-2.0
"""The parity step: served requests, made again offline, must have the same features and the same
scores.

It takes the day's logged requests, and sends probes through the real servers on the day's own
model. It decides what is compared and what a difference is; the offline path is
`components.evaluation.replay`.

Shape suffixes: N candidates, C context columns, K tasks.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.config import DailyConfig
from components.console import awaited, progress
from components.evaluation.replay import (
    Offline,
    Replayed,
    forward_probabilities,
    rank_probabilities,
)
from components.features.store import open_store
from components.layout.files import write_json
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import ImpressionLog
from feature_repo.spec import Freshness, Spec
from model.checkpoint import load_model
from model.ranker import Ranker
from serving.client import ask
from serving.history import decode_history
from serving.launch import Serving, launch
from serving.transformer.request_log import read_log, sample_log
from serving.wire import decode_candidates, to_numpy

RANKER = "feed_sr"
PROBE_CANDIDATES = 20
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


def parity(layout: Layout, day: str, config: DailyConfig) -> dict[str, Any]:
    """Replays the day's requests and probes; writes runs/<day>/parity.json.

    Args:
        layout: a run whose online store is as of the end of `day` and whose model of the day is
            trained.
        day: the as-of day.
        config: says how many requests are replayed.

    Returns:
        What was written: counts, the largest differences, the bound.

    Raises:
        ValueError: a feature or score that differs (which, of which member and post, both values),
            or a store that is not as of the end of a day.
    """
    spec = config.spec
    logged, skipped = logged_requests(layout, day, config)
    count = max(config.parity_requests - len(logged), (config.parity_requests + 1) // 2)
    probes = _send_probes(layout, day, config, count)
    offline, models, findings = Offline(layout, config), Models(layout, day), Findings()
    with progress("parity", len(logged) + len(probes)) as advance:
        for rows in (logged, probes):
            if rows:
                again = offline.replay(rows, boundary_of(spec, rows[0]["time_ms"]))
                for row, replayed in zip(rows, again, strict=True):
                    compare(spec, row, replayed, models, findings)
                    advance()
    result = {
        "day": day,
        "logged": len(logged),
        "probes": len(probes),
        "skipped": dict(skipped),
        **vars(findings),
    }
    write_json(layout.run(day) / "parity.json", result)
    return result


class Models:
    """The models that scored the requests, by version; the day's own by its folder's name."""

    def __init__(self, layout: Layout, day: str) -> None:
        self._layout = layout
        self._folders = {RANKER: layout.model(day, RANKER)}
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


def boundary_of(spec: Spec, time_ms: int) -> int:
    """The start of the local day of a time: as of when the daily loop's store is then."""
    return int(spec.day_start(spec.day(np.array(time_ms))))


def compare(
    spec: Spec, row: dict[str, Any], replayed: Replayed, models: Models, findings: Findings
) -> None:
    """Compares one request, features bit for bit and scores within the bound; ValueError at a
    difference.
    """
    served, context_NC = decode_candidates(spec, row["candidates"], len(row["post_ids"]))
    _compare_history(spec, row, replayed)
    for name, values in served.items():
        _compare_rows(row, name, values, replayed.features[name])
    for name, columns in spec.context_slices.items():
        _compare_rows(row, name, context_NC[:, columns], replayed.context_NC[:, columns])
    findings.requests += 1
    findings.candidates += len(row["post_ids"])
    model = models.get(row["model_version"])
    if model is not None:
        findings.scored += 1
        _compare_scores(spec, row, replayed, model, findings)


def _compare_rows(
    row: dict[str, Any], name: str, served: npt.NDArray[Any], offline: npt.NDArray[Any]
) -> None:
    """ValueError at the first candidate where two columns `[N]` or `[N, E]` differ in a bit; NaN is
    NaN.
    """
    served, offline = (v if v.ndim == 2 else v[:, None] for v in (served, offline))
    same = (_bits(served) == _bits(offline)) | ((served != served) & (offline != offline))
    different = np.flatnonzero(~same.all(axis=1))
    if len(different):
        place = int(different[0])
        raise ValueError(
            f"parity: feature {name} of member {row['member_id']} and post "
            f"{row['post_ids'][place]}: serving had {_shown(served[place])}, "
            f"offline has {_shown(offline[place])}"
        )


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}")


def _shown(values: npt.NDArray[Any]) -> str:
    return str(values[0] if len(values) == 1 else values.tolist()[:8])


def _compare_history(spec: Spec, row: dict[str, Any], replayed: Replayed) -> None:
    """ValueError unless the history value is byte for byte the offline one; names the first column
    that differs.
    """
    if row["history"] == replayed.history:
        return
    served, offline = (decode_history(v, spec) for v in (row["history"], replayed.history))
    who = f"parity: history of member {row['member_id']}"
    if (served.count, served.start) != (offline.count, offline.start):
        raise ValueError(
            f"{who}: serving had {served.count} impressions, offline has {offline.count}"
        )
    for name in spec.history_schema.names:
        one, other = (to_numpy(_plain(h.batch.column(name))) for h in (served, offline))
        same = (one == other) | ((one != one) & (other != other))
        different = np.flatnonzero(~same.all(axis=tuple(range(1, same.ndim))))
        if len(different):
            place = int(different[0])
            post = served.batch.column("post_id")[place].as_py()
            raise ValueError(
                f"{who}: feature {name} of post {post}, impression {served.start + place}: "
                f"serving had {one[place]}, offline has {other[place]}"
            )
    raise ValueError(f"{who}: the values' bytes differ, their columns do not")


def _plain(column_: pa.Array) -> pa.Array:
    return column_.cast(pa.int8()) if pa.types.is_boolean(column_.type) else column_


def _compare_scores(
    spec: Spec,
    row: dict[str, Any],
    replayed: Replayed,
    model: tuple[Ranker, Freshness],
    findings: Findings,
) -> None:
    """Serving's scores against `rank` and `forward` on the offline inputs.

    Both sides see the same bytes on the same kind of processor, so what may differ is rounding.
    """
    ranker, freshness = model
    request = replayed.request(spec, row["time_ms"])
    served = np.array(row["probabilities"], np.float64).reshape(len(row["post_ids"]), -1)
    ranked = rank_probabilities(ranker, freshness, request)
    bound = findings.bound = max(findings.bound, BOUNDS[row["dtype"]])
    rows = range(min(FORWARD_CANDIDATES, len(served)))
    trained = forward_probabilities(ranker, freshness, request, rows)
    differences = [
        _compare_pair(spec, row, "offline rank", (served, ranked), bound),
        _compare_pair(spec, row, "training forward", (served[: len(trained)], trained), bound),
    ]
    findings.served_difference = max(findings.served_difference, differences[0])
    findings.forward_difference = max(findings.forward_difference, differences[1])


def _compare_pair(
    spec: Spec,
    row: dict[str, Any],
    name: str,
    pair: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    bound: float,
) -> float:
    """The largest difference of served and other probabilities; ValueError above the bound, or at a
    NaN.
    """
    difference_NK = np.abs(pair[0] - pair[1])
    candidate, task = np.unravel_index(np.argmax(difference_NK), difference_NK.shape)
    worst = float(difference_NK[candidate, task])
    if not worst <= bound:
        raise ValueError(
            f"parity: score {spec.task_names[task]} of member {row['member_id']} and post "
            f"{row['post_ids'][candidate]}: serving had {pair[0][candidate, task]:.8f}, the "
            f"{name} has {pair[1][candidate, task]:.8f}, more than {bound:.1e} apart"
        )
    return worst


def logged_requests(
    layout: Layout, day: str, config: DailyConfig
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The day's logged requests that can be made again, evenly thinned, and why others cannot."""
    folder, spec = layout.requests_day(day), config.spec
    return sample_log(folder, config.parity_requests, lambda row: _unfit(spec, row))


def _unfit(spec: Spec, row: dict[str, Any]) -> str:
    """Why a logged request cannot be replayed, or ""."""
    if row["spec_hash"] != spec.hash:
        return "other spec"
    times = dict(row["as_of_ms"])
    if any(time > row["time_ms"] for time in times.values()):
        return "asked about the past"
    # Between midnight and the end of the daily run the store is a day behind what the offline join
    # would say.
    boundary = boundary_of(spec, row["time_ms"])
    return "" if all(time == boundary for time in times.values()) else "store was not up to date"


def _send_probes(layout: Layout, day: str, config: DailyConfig, count: int) -> list[dict[str, Any]]:
    """Probes through a real transformer and predictor on the day's model, as their log has them."""
    spec = config.spec
    time_ms = max(spec.day_end(day), _online_as_of(layout, config))
    instances = probe_instances(layout, day, config, count, time_ms)
    with tempfile.TemporaryDirectory(prefix="feedsr-parity-") as folder:
        serving = Serving(
            model_dir=layout.model(day, RANKER),
            feast_dir=layout.feast,
            spec_name=config.spec_name,
            log_dir=Path(folder),
            max_candidates=config.max_candidates,
            dtype=config.serving_dtype,
        )
        with awaited("starting transformer and predictor", launch(serving)) as pair:
            for instance in instances:
                ask(pair.transformer.url, [instance])
        rows = [row for one in sorted(Path(folder).iterdir()) for row in read_log(one)]
    if len(rows) != len(instances):
        raise ValueError(f"parity: {len(instances)} probes were sent, {len(rows)} were logged")
    reasons = {_unfit(spec, row) for row in rows} - {""}
    if reasons:
        raise ValueError(f"parity: {reasons.pop()}; materialize {day} and run parity again")
    return rows


def _online_as_of(layout: Layout, config: DailyConfig) -> int:
    """The end of the last materialization; a day run again may find the store further on."""
    views = open_store(layout, config).list_feature_views()
    ends = [v.most_recent_end_time for v in views if v.most_recent_end_time is not None]
    return max((round(end.timestamp() * 1000) for end in ends), default=0)


def probe_instances(
    layout: Layout, day: str, config: DailyConfig, count: int, time_ms: int
) -> list[dict[str, Any]]:
    """V1 requests of the day's members over its posts; the last is a new member with an unknown
    post.
    """
    spec = config.spec
    names = [f.name for f in spec.features if f.source == "request" and f.name != "hour"]
    with ImpressionLog(layout, day) as log:
        rows = log.query(
            "select * from impressions where event_time >= "
            f"{int(spec.day_start(spec.day_number(day)))} order by event_time, member_id, post_id"
        )
    if not rows.num_rows:
        raise ValueError(f"parity: the log has no impressions of {day} to probe with")
    random = np.random.default_rng(spec.day_number(day))
    members, first = np.unique(column(rows, "member_id"), return_index=True)
    posts = np.unique(column(rows, "post_id"))
    size = min(PROBE_CANDIDATES, config.max_candidates, len(posts))
    chosen = random.choice(len(members), min(count, len(members)), replace=False)
    instances = [
        _instance(members[i], random.choice(posts, size, replace=False), time_ms)
        | {"request": {n: max(int(column(rows, n)[first[i]]), -1) for n in names}}
        for i in chosen
    ]
    stranger = [*posts[: size - 1], int(posts[-1]) + 1_000_000_007]
    return [
        *instances[: max(count - 1, 0)],
        _instance(int(members[-1]) + 1_000_000_007, stranger, time_ms),
    ]


def _instance(member: int, posts: Sequence[Any] | npt.NDArray[Any], time_ms: int) -> dict[str, Any]:
    ids = [int(post) for post in posts]
    return {"member_id": int(member), "candidates": ids, "time_ms": time_ms}
