# SPDX-License-Identifier: Apache-2.0
"""The simulator's log holds what was planted in it, at the planted strength."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import PROFILES
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources import SimulatorConfig, SourceCounts, simulate
from components.log.sources.feed import Feed
from components.log.sources.feedback import ACTIONS, LONG_DWELL_MS, SKIP_MS
from components.log.sources.simulator import truth_day
from components.log.sources.world import Posts
from feature_repo.spec import DAY_MS
from feature_repo.specs import SIMULATOR
from tests.raw_builders import digest, exact_auc

DEFAULT = SimulatorConfig()
SMALL = SimulatorConfig(days=4, members=80, actors=30, posts_per_day=60, impressions=3_000)


class Log:
    """A simulated log of the default size, as columns."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout.at(root)
        began = time.perf_counter()
        self.counts: SourceCounts = simulate(self.layout, DEFAULT)
        self.seconds = time.perf_counter() - began
        self.days = self.layout.raw_days()
        truth = pa.concat_tables([truth_day(self.layout, day) for day in self.days])
        self.truth = {name: truth[name].to_numpy() for name in truth.column_names}
        self.posts = pq.read_table(self.layout.raw_posts)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("a", "b", "other")]
    for root, seed in zip(roots, (3, 3, 4), strict=True):
        simulate(Layout.at(root), SMALL.model_copy(update={"seed": seed}))
    first, again, other = (digest(root) for root in roots)
    assert len(first) == 2 * SMALL.days + 2
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_a_second_simulation_replaces_the_first(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    simulate(layout, SMALL)
    moved = SMALL.model_copy(update={"start": datetime.date(2026, 3, 1), "days": 2})
    counts = simulate(layout, moved)
    assert layout.raw_days() == ["2026-03-01", "2026-03-02"] == list(counts.days)


def test_size_speed_and_schema(log: Log) -> None:
    counts = log.counts
    assert abs(counts.impressions / DEFAULT.impressions - 1) < 0.1
    assert log.seconds < 10
    assert (counts.members, counts.posts) == (600, 300 * (9 + 3))
    assert pq.read_schema(log.layout.raw_posts) == SIMULATOR.post_schema
    assert pq.read_schema(log.layout.raw_members) == SIMULATOR.member_schema
    for day in log.days:
        raw = pq.read_table(log.layout.raw_day(day))
        assert raw.schema == SIMULATOR.impression_schema
        arrived = SIMULATOR.day(raw["arrival_time"].to_numpy())
        assert set(arrived) == {SIMULATOR.day_number(day)}


def test_ingest_finds_exactly_what_was_planted(log: Log) -> None:
    results = [ingest(log.layout, day, PROFILES["demo"]) for day in log.days]
    notes = log.counts.notes
    bad = sum(sum(r.quarantined.values()) for r in results)
    duplicates, kept = sum(r.duplicates for r in results), sum(r.kept for r in results)
    assert notes["bad"] > 0
    assert notes["duplicates"] > 0
    assert (bad, duplicates) == (notes["bad"], notes["duplicates"])
    assert kept == log.counts.impressions - bad - duplicates
    assert sum(r.unknown_posts + r.unknown_members for r in results) == 0
    assert sum(r.late for r in results) >= 0.8 * notes["late"] > 0
    files = [pq.read_table(log.layout.impressions_day(day)) for day in log.days]
    rows = pa.concat_tables(files).to_pandas()
    truth = pa.table(log.truth).to_pandas()
    both = rows.merge(truth, on=["member_id", "post_id", "event_time"], suffixes=("", "_true"))
    assert len(both) == kept
    for name in ("position", *ACTIONS):
        assert (both[name] == both[f"{name}_true"]).all()
    _check_requests(rows)
    _check_actions(rows)


def _check_requests(rows) -> None:  # type: ignore[no-untyped-def]
    requests = rows.groupby("request_id")
    assert (requests["position"].nunique() == requests["position"].size()).all()
    assert (requests["position"].max() == requests["position"].size() - 1).all()
    assert (requests["post_id"].nunique() == requests["post_id"].size()).all()
    assert (requests["session_id"].nunique() == 1).all()
    assert rows["position"].max() == DEFAULT.request_size - 1


def _check_actions(rows) -> None:  # type: ignore[no-untyped-def]
    assert ((rows["dwell_ms"] >= LONG_DWELL_MS) == (rows["long_dwell"] == 1)).all()
    quick = (rows["dwell_ms"] < SKIP_MS) & (rows["click"] == 0)
    assert (quick == (rows["skip"] == 1)).all()
    for name in ("like", "comment", "share"):
        assert (rows["click"] >= rows[name]).all()


def test_posts_are_shown_only_after_they_were_made(log: Log) -> None:
    created = log.posts["created_ms"].to_numpy()
    age = log.truth["event_time"] - created[log.truth["post_id"] - 1]
    assert age.min() > 0
    assert age.max() < (DEFAULT.post_life_days + 2) * DAY_MS
    for day in log.days:
        start = SIMULATOR.day_start(SIMULATOR.day_number(day))
        made = (created >= start) & (created < start + DAY_MS)
        assert made.sum() == DEFAULT.posts_per_day


@pytest.mark.parametrize("task", ACTIONS)
def test_truth_is_calibrated_and_learnable(log: Log, task: str) -> None:
    label, known, best = log.truth[task], log.truth[f"p_{task}"], log.truth[f"b_{task}"]
    error = np.sqrt((known * (1 - known)).sum()) / len(label)
    assert abs(label.mean() - known.mean()) < 4 * error
    bayes, with_mood = exact_auc(label, best), exact_auc(label, known)
    print(f"{task}: rate {label.mean():.4f}, Bayes AUC {bayes:.4f}, with mood {with_mood:.4f}")
    assert 0.70 < bayes < with_mood < 0.95


def test_position_bias_at_the_planted_rate(log: Log) -> None:
    position, click = log.truth["position"], log.truth["click"].astype(float)
    top = click[position == 0].mean()
    for place in range(1, 10):
        clicks = click[position == place]
        planted = (1 + place) ** -DEFAULT.position_exponent
        error = np.sqrt(clicks.mean() / len(clicks)) / top
        error += planted / np.sqrt((position == 0).sum())
        assert abs(clicks.mean() / top - planted) < 4 * error


def test_popularity_decays_with_age(log: Log) -> None:
    feed = Feed(DEFAULT)
    live = Posts.join(feed.world.stock)
    member, post = np.arange(100), np.arange(100)
    made, hours = live.created_ms[post], DEFAULT.half_life_hours
    logits = [
        feed.relevance(member, post, live, made + int(age * 3_600_000))
        for age in (0, hours, 2 * hours)
    ]
    np.testing.assert_allclose(logits[0] - logits[1], 0.5 * DEFAULT.freshness_gain)
    np.testing.assert_allclose(logits[1] - logits[2], 0.25 * DEFAULT.freshness_gain)
    age = log.truth["event_time"] - log.posts["created_ms"].to_numpy()[log.truth["post_id"] - 1]
    age_hours, click = age / 3_600_000, log.truth["click"]
    new, old = click[age_hours < 6].mean(), click[age_hours > 48].mean()
    assert new > 1.1 * old
    shown = np.bincount((age_hours // 24).astype(int))
    assert shown[0] > shown[1] > shown[2]


def test_feedback_is_correlated_within_a_visit(log: Log) -> None:
    visit, best = log.truth["visit_id"], log.truth["b_click"]
    left, right = _pairs(visit)
    residual = log.truth["click"] - best
    together = (residual[left] * residual[right]).mean()
    explained = log.truth["click"] - log.truth["p_click"]
    apart = (explained[left] * explained[right]).mean()
    error = (residual[left] * residual[right]).std() / np.sqrt(len(left))
    shift = log.truth["p_click"] - best
    planted = (shift[left] * shift[right]).mean()
    assert together > 4 * error
    assert abs(together - planted) < 4 * error
    assert abs(apart) < 4 * error
    assert len(np.unique(log.truth["mood"])) == len(np.unique(visit))
    assert abs(log.truth["mood"].std() - DEFAULT.mood) < 0.05


def _pairs(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Neighbours of the same group, each impression in one pair at most."""
    order = np.argsort(group, kind="stable")
    left, right = order[:-1:2], order[1::2]
    same = group[left] == group[right]
    return left[same], right[same]


def test_activity_is_heavy_tailed_and_some_members_are_cold(log: Log) -> None:
    member, count = np.unique(log.truth["member_id"], return_counts=True)
    assert count.max() > 1000
    assert np.median(count) < 0.75 * count.mean()
    assert (count < 10).sum() >= 20
    top = np.sort(count)[-len(count) // 10 :].sum() / count.sum()
    assert top > 0.3
    joined = Feed(DEFAULT).world.joined_day
    first = np.full(DEFAULT.members, DEFAULT.days)
    day = SIMULATOR.day(log.truth["event_time"]) - SIMULATOR.day_number(log.days[0])
    np.minimum.at(first, log.truth["member_id"] - 1, day)
    assert (joined > 2).sum() > 20
    assert (first >= joined).all()
    assert len(member) > 0.8 * DEFAULT.members


def test_the_truth_holds_what_was_logged_and_when_it_arrived(log: Log) -> None:
    dwell, click = log.truth["dwell_ms"], log.truth["click"]
    assert ((dwell >= LONG_DWELL_MS) == (log.truth["long_dwell"] == 1)).all()
    assert (((dwell < SKIP_MS) & (click == 0)) == (log.truth["skip"] == 1)).all()
    delay = log.truth["arrival_time"] - log.truth["event_time"]
    assert (delay > 0).all()
    assert abs((delay >= DAY_MS).mean() - DEFAULT.late_share) < 0.01


def test_history_tells_the_interest(log: Log) -> None:
    """Content of what was clicked ranks the next day far better than counts of clicks do."""
    start = SIMULATOR.day_start(SIMULATOR.day_number(log.days[-1]))
    member, post, click = (log.truth[n] for n in ("member_id", "post_id", "click"))
    content = np.stack(log.posts["content"].to_numpy()).astype(np.float64)
    before = log.truth["event_time"] < start
    liked = np.zeros((DEFAULT.members + 1, 50))
    signed = (click[before] - click[before].mean())[:, None] * content[post[before] - 1]
    np.add.at(liked, member[before], signed)
    score = (liked[member] * content[post - 1]).sum(1) / (
        1e-9 + np.linalg.norm(liked[member], axis=1)
    )
    rate = np.bincount(post[before], click[before], log.counts.posts + 1) + 2
    rate /= np.bincount(post[before], minlength=log.counts.posts + 1) + 10
    today = ~before
    by_content = exact_auc(click[today], score[today])
    by_popularity = exact_auc(click[today], rate[post[today]])
    assert by_content > 0.68
    assert by_content > by_popularity + 0.1


def test_the_truth_can_be_left_out(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    simulate(layout, SMALL.model_copy(update={"truth": False}))
    assert not (tmp_path / "truth").exists()


def test_a_ranked_feed_shows_the_better_posts_higher_and_a_random_one_does_not(
    tmp_path: Path,
) -> None:
    slopes = []
    for ranked in (0.0, 0.5, 2.0):
        layout = Layout.at(tmp_path / str(ranked))
        simulate(layout, SMALL.model_copy(update={"ranked": ranked}))
        truth = pa.concat_tables([truth_day(layout, day) for day in layout.raw_days()])
        columns = {n: truth[n].to_numpy() for n in ("position", "b_click", "examination")}
        relevance = np.log(columns["b_click"]) - np.log(columns["examination"])
        slopes.append(-np.polyfit(columns["position"], relevance, 1)[0])
    assert abs(slopes[0]) < 0.02
    assert 0.02 < slopes[1] < slopes[2]
