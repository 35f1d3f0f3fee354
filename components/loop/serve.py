# SPDX-License-Identifier: Apache-2.0
"""Ranks one member's feed through the real servers, and serves until told to stop.

It asks over V1 JSON like any caller would; scores and features are made by `serving` alone.
"""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from components.config import DailyConfig
from components.console import awaited
from components.features.state import Origin
from components.features.store import follow_root
from components.layout.paths import Layout
from components.layout.writer import is_alive
from components.registry.json_record import Record
from feature_repo.quoting import duckdb_parquet
from feature_repo.spec import Spec
from serving.client import ask
from serving.launch import HOST, NAME, Serving, launch

STARTING = "starting transformer and predictor"
CANDIDATES = 20
"""How many of the newest posts are ranked where no candidates are named."""


class Address(Record):
    """Where the servers of a root listen, and the process that keeps them."""

    remedy = "remove it and run feedsr serve again"

    url: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class RankedPost:
    """One post of a ranked feed: its probabilities by task, and what degraded for it."""

    post_id: int
    score: float
    probabilities: Mapping[str, float]
    flags: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One member's ranked feed.

    Attributes:
        flags: what degraded for the whole request.
        posts: best first.
    """

    member_id: int
    time_ms: int
    model_version: str
    tasks: tuple[str, ...]
    flags: list[str]
    posts: list[RankedPost]


def rank(
    layout: Layout,
    config: DailyConfig,
    member: int | None = None,
    candidates: Sequence[int] | None = None,
    time_ms: int | None = None,
    request: Mapping[str, int] | None = None,
) -> Ranking:
    """Ranks candidates for a member by the servers of this root, or by ones started for the call.

    Args:
        layout: a run with an online store and a promoted model.
        config: names the spec and the limits.
        member: by default the one with the most impressions.
        candidates: post ids; by default the newest posts that the member has not seen.
        time_ms: when the feed is asked for; by default the end of the last day the store knows.
        request: request features by name (surface, tab, ..); one that is not named has the log's
            most common value, because a model has seen few impressions where it is unknown. `hour`
            follows from the time.

    Raises:
        ValueError: nothing to rank with or no candidate named, or the servers' own sentence.
    """
    time_ms = _last_end(layout, config) if time_ms is None else time_ms
    member = _most_active(layout) if member is None else member
    posts = newest_posts(layout, member, time_ms) if candidates is None else list(candidates)
    if not posts:
        raise ValueError("there are no candidates to rank; name at least one, or none to choose")
    instance = {
        "member_id": member,
        "candidates": posts,
        "time_ms": time_ms,
        "request": {**usual_request(layout, config.spec), **(request or {})},
    }
    with _transformer(layout, config) as url:
        answer = ask(url, [instance])[0]
    return Ranking(
        member_id=answer["member_id"],
        time_ms=time_ms,
        model_version=answer["model_version"],
        tasks=config.spec.task_names,
        flags=answer["flags"],
        posts=[RankedPost(**post) for post in answer["ranked"]],
    )


def serve(layout: Layout, config: DailyConfig, http_port: int = 8080) -> None:
    """Serves the model in production on loopback until Ctrl-C or SIGTERM.

    Raises:
        ValueError: no model or store, or a port is in use.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    serving = serving_of(layout, config, http_port)
    with suppress(KeyboardInterrupt), awaited(STARTING, launch(serving)) as pair:
        url = pair.transformer.url
        Address(url=url, pid=os.getpid()).write(_address(layout))
        console = Console(stderr=True, highlight=False)
        console.print(f"serving on {url}/v1/models/{NAME}:predict, gRPC on {pair.transformer.grpc}")
        try:
            while True:
                time.sleep(1.0)
                for server in (pair.predictor, pair.transformer):
                    server.trim()
                    if server.process.poll() is not None:
                        raise ValueError(f"the {server.name} ended: {server.tail()}")
        finally:
            _address(layout).unlink(missing_ok=True)


def serving_of(layout: Layout, config: DailyConfig, http_port: int = 0) -> Serving:
    """What to launch for a root: its production model, its store and its request log."""
    current = layout.registry / "current"
    if not current.exists():
        raise ValueError(f"{layout.root} has no model in production; run feedsr daily first")
    follow_root(layout)
    return Serving(
        model_dir=current,
        feast_dir=layout.feast,
        spec_name=config.spec_name,
        log_dir=layout.root / "requests",
        max_candidates=config.max_candidates,
        dtype=config.serving_dtype,
        http_port=http_port,
    )


def newest_posts(layout: Layout, member: int, time_ms: int, count: int = CANDIDATES) -> list[int]:
    """The newest posts made before a time that the member has not been shown.

    Raises:
        ValueError: there is none.
    """
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"select post_id from {duckdb_parquet([layout.posts])} "
            "where created_ms < ? and post_id not in "
            f"(select post_id from {_impressions(layout)} where member_id = ?) "
            "order by created_ms desc, post_id limit ?",
            [time_ms, member, count],
        ).fetchall()
    if not rows:
        raise ValueError(f"member {member} has seen every post; name candidates to rank")
    return [row[0] for row in rows]


def usual_request(layout: Layout, spec: Spec) -> dict[str, int]:
    """The most common known value of each request feature in the log, `hour` left out."""
    names = [f.name for f in spec.features if f.source == "request" and f.name != "hour"]
    if not names or not layout.impression_days():
        return {}
    modes = ", ".join(f'mode("{n}") filter ("{n}" >= 0)' for n in names)
    with duckdb.connect() as connection:
        row = connection.execute(f"select {modes} from {_impressions(layout)}").fetchone()
    return {n: int(value) for n, value in zip(names, row or (), strict=False) if value is not None}


def render_table(ranking: Ranking, console: Console | None = None) -> None:
    """Prints a ranking: candidate, probability per task, final score; footnotes of defaults."""
    flags = f"; {', '.join(ranking.flags)}" if ranking.flags else ""
    notes = list(dict.fromkeys(flag for post in ranking.posts for flag in post.flags))
    table = Table(
        title=f"member {ranking.member_id}, ranked by {ranking.model_version}{flags}",
        title_justify="left",
        caption="\n".join(f"{i} {note}" for i, note in enumerate(notes, 1)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("", "post", *ranking.tasks):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("score", justify="right", style="bold", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, post in enumerate(ranking.posts, 1):
        shares = [f"{post.probabilities[task]:.3f}" for task in ranking.tasks]
        marks = ",".join(str(notes.index(flag) + 1) for flag in post.flags)
        table.add_row(str(place), str(post.post_id), *shares, f"{post.score:.3f}", marks)
    (console or Console(highlight=False)).print(table)


@contextmanager
def _transformer(layout: Layout, config: DailyConfig) -> Iterator[str]:
    """The address of the servers of this root, or of ones started for this block."""
    running = _running(layout)
    if running:
        yield running
        return
    with awaited(STARTING, launch(serving_of(layout, config))) as pair:
        yield pair.transformer.url


def _running(layout: Layout) -> str | None:
    path = _address(layout)
    if not path.is_file():
        return None
    address = Address.read(path)
    # The port of a serve that was killed may be another root's by now.
    if not address.url.startswith(f"http://{HOST}:") or not is_alive(address.pid):
        return None
    try:
        with urllib.request.urlopen(f"{address.url}/v2/models/{NAME}/ready", timeout=2):
            return address.url
    except OSError:
        return None


def _address(layout: Layout) -> Path:
    return layout.root / "serving.json"


def _last_end(layout: Layout, config: DailyConfig) -> int:
    origin = Origin.of_file(layout.history_bucket(0))
    if origin is None or not origin.day:
        raise ValueError(f"{layout.root} has no features; run feedsr daily first")
    return config.spec.day_end(origin.day)


def _most_active(layout: Layout) -> int:
    with duckdb.connect() as connection:
        row = connection.execute(
            f"select member_id from {_impressions(layout)} group by member_id "
            "order by count(*) desc, member_id limit 1"
        ).fetchone()
    if row is None:
        raise ValueError(f"{layout.root} has no impressions; name a member")
    return int(row[0])


def _impressions(layout: Layout) -> str:
    days = layout.impression_days()
    if not days:
        raise ValueError(f"{layout.root} has no impressions; run feedsr daily first")
    return duckdb_parquet(map(layout.impressions_day, days))
