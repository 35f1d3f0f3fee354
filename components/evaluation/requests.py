# SPDX-License-Identifier: Apache-2.0
"""The requests that the parity step makes again: a day's logged ones, and probes of its own.

Probes go through the real servers on the day's own model. What a difference is, is
`components.evaluation.differences`' to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.config import DailyConfig
from components.console import awaited
from components.features.store import open_store
from components.layout.aside import aside
from components.layout.paths import Layout
from components.log.columns import column
from components.log.impressions import ImpressionLog
from components.registry.gate import CANDIDATE
from feature_repo.spec import Spec
from serving.client import ask
from serving.launch import Serving, launch
from serving.transformer.request_log import read_log, sample_log

PROBE_CANDIDATES = 20
STRANGER = 1_000_000_007
"""What is added to the last id of a log for one that it does not have."""


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    """A served request as `serving.transformer.request_log` has it.

    Attributes:
        time_ms: when the feed was asked for.
        request: request features by name.
        history: the history value that was served.
        candidates: the candidates as the predictor got them, see `serving.wire`.
        probabilities: `[N, K]`, row by row.
        dtype: what the model computed them in.
    """

    member_id: int
    post_ids: list[int]
    time_ms: int
    request: dict[str, int]
    history: bytes
    candidates: bytes
    probabilities: list[float]
    model_version: str
    dtype: str

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> LoggedRequest:
        """The request of a row of the log."""
        whole = {**row, "request": dict(row["request"])}
        return cls(**{name: whole[name] for name in cls.__dataclass_fields__})


def boundary_of(spec: Spec, time_ms: int) -> int:
    """The start of the local day of a time: as of when the daily loop's store is then."""
    return int(spec.day_start(spec.day(np.array(time_ms))))


def logged_requests(
    layout: Layout, day: str, config: DailyConfig
) -> tuple[list[LoggedRequest], Counter[str]]:
    """The day's logged requests that can be made again, evenly thinned, and why others cannot."""
    folder, spec = layout.requests_day(day), config.spec
    rows, reasons = sample_log(folder, config.parity_requests, lambda row: _unfit(spec, row))
    return [LoggedRequest.from_row(row) for row in rows], reasons


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


def send_probes(layout: Layout, day: str, config: DailyConfig, count: int) -> list[LoggedRequest]:
    """Probes through a real transformer and predictor on the day's model, as their log has them.

    Raises:
        ValueError: the log has nothing to probe with, a probe was not logged, or the store is not
            as of the end of a day.
    """
    time_ms = max(config.spec.day_end(day), _online_as_of(layout, config))
    instances = probe_instances(layout, day, config, count, time_ms)
    rows = _served(layout, day, config, instances)
    if len(rows) != len(instances):
        raise ValueError(f"parity: {len(instances)} probes were sent, {len(rows)} were logged")
    reasons = {_unfit(config.spec, row) for row in rows} - {""}
    if reasons:
        raise ValueError(f"parity: {reasons.pop()}; materialize {day} and run parity again")
    return [LoggedRequest.from_row(row) for row in rows]


def _served(
    layout: Layout, day: str, config: DailyConfig, instances: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows that the day's model, served for this call, logs of some V1 requests."""
    with aside("parity") as folder:
        serving = Serving(
            model_dir=layout.model(day, CANDIDATE),
            feast_dir=layout.feast,
            spec_name=config.spec_name,
            log_dir=folder / "requests",
            max_candidates=config.max_candidates,
            dtype=config.serving_dtype,
        )
        with awaited("starting transformer and predictor", launch(serving)) as pair:
            for instance in instances:
                ask(pair.transformer.url, [instance])
        days = sorted((folder / "requests").iterdir())
        return [row for day_folder in days for row in read_log(day_folder)]


def _online_as_of(layout: Layout, config: DailyConfig) -> int:
    """The end of the last materialization; a day run again may find the store further on."""
    views = open_store(layout, config).list_feature_views()
    ends = [v.most_recent_end_time for v in views if v.most_recent_end_time is not None]
    return max((round(end.timestamp() * 1000) for end in ends), default=0)


def probe_instances(
    layout: Layout, day: str, config: DailyConfig, count: int, time_ms: int
) -> list[dict[str, Any]]:
    """V1 requests of the day's members over its posts, drawn by the day's number.

    The last is of a new member, with an unknown post.
    """
    spec = config.spec
    served = _impressions_of(layout, day, spec)
    random = np.random.default_rng(spec.day_number(day))
    members, first = np.unique(column(served, "member_id"), return_index=True)
    posts = np.unique(column(served, "post_id"))
    size = min(PROBE_CANDIDATES, config.max_candidates, len(posts))
    chosen = random.choice(len(members), min(count, len(members)), replace=False)
    instances = [
        _instance(members[i], random.choice(posts, size, replace=False), time_ms)
        | {"request": _request(spec, served, int(first[i]))}
        for i in chosen
    ]
    unknown = [*posts[: size - 1], int(posts[-1]) + STRANGER]
    stranger = _instance(int(members[-1]) + STRANGER, unknown, time_ms)
    return [*instances[: max(count - 1, 0)], stranger]


def _impressions_of(layout: Layout, day: str, spec: Spec) -> pa.Table:
    """What was served on a day; ValueError where nothing was."""
    with ImpressionLog(layout, day, {day}) as log:
        served = log.query(
            "select * from impressions where event_time >= "
            f"{int(spec.day_start(spec.day_number(day)))} order by event_time, member_id, post_id"
        )
    if not served.num_rows:
        raise ValueError(f"parity: the log has no impressions of {day} to probe with")
    return served


def _request(spec: Spec, served: pa.Table, place: int) -> dict[str, int]:
    """The request features of one impression; `hour` follows from the time."""
    names = [f.name for f in spec.features if f.source == "request" and f.name != "hour"]
    return {name: max(int(column(served, name)[place]), -1) for name in names}


def _instance(member: int, posts: Sequence[Any] | npt.NDArray[Any], time_ms: int) -> dict[str, Any]:
    ids = [int(post) for post in posts]
    return {"member_id": int(member), "candidates": ids, "time_ms": time_ms}
