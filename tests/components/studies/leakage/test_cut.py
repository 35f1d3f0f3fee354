# SPDX-License-Identifier: Apache-2.0
"""The cut takes feedback of an impression's own session away, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.backtest.prepare import prepare
from components.backtest.scored import scored_batches
from components.backtest.shards import ShardPlan, write_test
from components.backtest.split import LogSplit
from components.config import PROFILES
from components.features.counters import counter_columns
from components.layout.paths import Layout
from components.log.columns import select_list
from components.log.impressions import ImpressionLog
from components.studies.leakage.cut import (
    SessionCut,
    Sessions,
    cut_counters,
    cut_known,
    session_numbers,
    write_cut,
)
from components.training.data import evaluation_batches, shard_paths
from feature_repo.spec import Spec
from feature_repo.specs import SIMULATOR
from kernels.loader import Packed, ShardFormat, read_shard
from model import build_ranker
from tests.backtest_builders import other_future
from tests.log_builders import small_spec
from tests.shard_builders import write_shards

GAP = SIMULATOR.session_gap_ms
PLAN = ShardPlan(
    split=LogSplit(data="sim:4000", train_before="2026-01-12", test_through="2026-01-13"),
    spec=SIMULATOR,
    freshness="immediate",
)


def pack(rng: np.random.Generator, lengths: list[int]) -> Packed:
    """Random sequences: a few sessions each, in any order, known prefixes of any length."""
    total = sum(lengths)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    place = np.arange(total) - np.repeat(cu_seqlens[:-1], lengths)
    columns = {
        "session_id": rng.integers(-1, 4, total),
        "event_time": rng.integers(0, 6 * GAP, total),
        "timed": rng.random(total) < 0.8,
        "known": rng.integers(0, place + 1).astype(np.int32),
        "loss": rng.integers(0, 3, total).astype(np.int8),
    }
    targets = int((columns["loss"] == 1).sum())
    return Packed(
        columns=columns,
        cu_seqlens=cu_seqlens,
        context_RC=np.zeros((targets, 0), np.float32),
        sequence_S=np.arange(len(lengths)),
        keys={"member_id": np.arange(len(lengths))},
    )


PACKS = st.builds(
    lambda seed, lengths: pack(np.random.default_rng(seed), lengths),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 25), min_size=1, max_size=5),
)


def same_session(packed: Packed, i: int, j: int, sessions: Sessions) -> bool:
    """Whether two impressions of one sequence are of one session, by the definition."""
    if i == j:
        return True
    columns = packed.columns
    if not (columns["timed"][i] and columns["timed"][j]):
        return False
    if sessions == "logged":
        return bool(columns["session_id"][i] == columns["session_id"][j] >= 0)
    low, high = sorted((columns["event_time"][i], columns["event_time"][j]))
    sequence = np.searchsorted(packed.cu_seqlens, i, side="right") - 1
    own = slice(packed.cu_seqlens[sequence], packed.cu_seqlens[sequence + 1])
    times = np.sort(columns["event_time"][own][columns["timed"][own]])
    between = times[(times >= low) & (times <= high)]
    return bool((np.diff(between) <= GAP).all())


def pairs(packed: Packed):  # type: ignore[no-untyped-def]
    for first, last in zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False):
        for i in range(first, last):
            yield first, i, range(first, last)


@settings(deadline=None, max_examples=40)
@given(packed=PACKS, sessions=st.sampled_from(["logged", "pause"]))
def test_sessions_are_told_apart_by_their_definition(packed: Packed, sessions: Sessions) -> None:
    number = session_numbers(packed, SessionCut(spec=SIMULATOR, sessions=sessions))
    assert set(number) == set(range(number.max() + 1))
    for _, i, others in pairs(packed):
        assert (number == number[i])[: others.start].sum() == 0
        for j in others:
            assert (number[i] == number[j]) == same_session(packed, i, j, sessions)


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(packed=PACKS, sessions=st.sampled_from(["logged", "pause"]))
def test_no_impression_knows_one_of_its_own_session(packed: Packed, sessions: Sessions) -> None:
    """Law 4, of a session: the cut prefix ends before the session's first impression."""
    number = session_numbers(packed, SessionCut(spec=SIMULATOR, sessions=sessions))
    before = packed.columns["known"]
    known = cut_known(before, number)
    assert known.dtype == np.int32
    assert (known >= 0).all()
    assert (known <= before).all()
    np.testing.assert_array_equal(cut_known(known, number), known)
    for first, i, others in pairs(packed):
        own = [j for j in others if number[j] == number[i]]
        assert number[i] not in number[first : first + known[i]]
        if own == [i]:
            assert known[i] == before[i]
        assert known[i] == min(before[j] for j in own)


def counted_of(layout: Layout, through: str, spec: Spec) -> pa.Table:
    names = sorted({n for v in spec.views if v.kind == "counters" for n in counter_columns(v)})
    with ImpressionLog(layout, through) as log:
        return log.query(f"select {select_list(names)} from events")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):  # type: ignore[no-untyped-def]
    work = tmp_path_factory.mktemp("cut")
    config = PROFILES["demo"].model_copy(update={"freshness": "immediate"})
    shards = prepare(PLAN.split, work, config)
    return Layout.at(work), shards.test


def read(folder: Path, spec: Spec = SIMULATOR) -> list[Packed]:
    names = ("event_time", "session_id", "timed", "post_id", "actor_id")
    form = ShardFormat(
        columns={n: spec.history_schema.field(n).type for n in names},
        context_width=spec.context_width,
    )
    return [read_shard(path, form) for path in shard_paths(folder)]


def test_counters_of_the_same_cutoff_are_the_shards_own(prepared) -> None:  # type: ignore[no-untyped-def]
    layout, folder = prepared
    counted = counted_of(layout, layout.impression_days()[-1], SIMULATOR)
    for packed in read(folder):
        again = cut_counters(packed, packed.columns["event_time"], SIMULATOR, counted)
        np.testing.assert_array_equal(again, packed.context_RC)


def test_cut_shards_differ_in_known_and_counters_alone(prepared, tmp_path) -> None:  # type: ignore[no-untyped-def]
    layout, folder = prepared
    counted = counted_of(layout, layout.impression_days()[-1], SIMULATOR)
    counts = write_cut(
        folder, tmp_path / "cut", SessionCut(spec=SIMULATOR, sessions="pause", counted=counted)
    )
    counters = {f.name for f in SIMULATOR.features if f.counter is not None}
    changed = 0
    both = zip(
        evaluation_batches(folder, SIMULATOR),
        evaluation_batches(tmp_path / "cut", SIMULATOR),
        strict=True,
    )
    for (_, before), (_, after) in both:
        for name, values in before.columns.items():
            if name != "known":
                np.testing.assert_array_equal(values, after.columns[name])
        less = after.columns["known"] < before.columns["known"]
        target = before.columns["loss"] == 1
        changed += int(less[target].sum())
        assert (after.columns["known"] <= before.columns["known"]).all()
        for name, place in SIMULATOR.context_slices.items():
            same = np.array_equal(
                before.context_RC[:, place], after.context_RC[:, place], equal_nan=True
            )
            assert same or name in counters
        seen = SIMULATOR.context_slices["member_impressions"]
        pair = [np.nan_to_num(b.context_RC[:, seen]).ravel() for b in (before, after)]
        assert (pair[1] <= pair[0]).all()
        assert (pair[1] < pair[0]).any()
        assert (pair[1] < pair[0])[less[target]].all()
    assert changed == counts["known_cut"] > 0
    assert 0 < counts["sessions_of_many"] <= counts["sessions"] < counts["targets"]


@pytest.mark.law
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 0.999), ranker=st.sampled_from(["feed_sr", "dcnv2"]))
@example(place=0.875, ranker="feed_sr")
@example(place=0.0, ranker="feed_sr")
def test_feedback_since_the_session_began_moves_no_score(  # type: ignore[no-untyped-def]
    prepared, tmp_path_factory, place, ranker
) -> None:
    """Law 4, end to end, of the beginning of a session.

    Other actions in what arrives from then on reach no cut score of that session or an earlier one;
    uncut, they reach the scores of its targets.
    """
    layout, folder = prepared
    how = SessionCut(spec=SIMULATOR, sessions="pause")
    began = np.concatenate([first_times(packed, how) for packed in read(folder)])
    knew = np.concatenate([knew_own(packed, how) for packed in read(folder)])
    now = int(began[knew][int(place * knew.sum())])
    changed = other_future(layout, Layout.at(tmp_path_factory.mktemp("changed")), now)
    model = build_ranker(getattr(PROFILES["demo"], ranker), SIMULATOR, seed=3).eval()
    uncut, cut = [], []
    for log in (layout, changed):
        write_test(log, log.root / "law", PLAN)
        counted = counted_of(log, log.impression_days()[-1], SIMULATOR)
        how = SessionCut(spec=SIMULATOR, sessions="pause", counted=counted)
        write_cut(log.root / "law", log.root / "law-cut", how)
        uncut.append(scores(model, log.root / "law"))
        cut.append(scores(model, log.root / "law-cut"))
    np.testing.assert_array_equal(cut[0][began <= now], cut[1][began <= now])
    later = began > now
    if later.mean() > 0.5:  # few that begin late in the log know anything of what was changed
        assert (cut[0][later] != cut[1][later]).any()
    else:
        assert place > 0  # the second example is one where that holds
    of_it = knew & (began == now)
    assert (uncut[0][of_it] != uncut[1][of_it]).any(1).all()


def knew_own(packed: Packed, how: SessionCut) -> np.ndarray:  # type: ignore[type-arg]
    """Which targets knew feedback of their own session."""
    known = packed.columns["known"]
    cut = cut_known(known, session_numbers(packed, how))
    return (cut < known)[packed.columns["loss"] == 1]


def scores(model: torch.nn.Module, folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([b.logits_RK for b in scored_batches(model, folder, SIMULATOR)])


def first_times(packed: Packed, how: SessionCut) -> np.ndarray:  # type: ignore[type-arg]
    """When the session of each target began."""
    number, time_M = session_numbers(packed, how), packed.columns["event_time"]
    first = np.full(number.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, number, time_M)
    return first[number][packed.columns["loss"] == 1]


def test_requests_of_one_time_leak_nothing(prepared, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Known time is strict: all of a simulated request is served at once, before its feedback."""
    _, folder = prepared
    counts = write_cut(folder, tmp_path / "cut", SessionCut(spec=SIMULATOR))
    assert counts["known_cut"] == 0
    for before, after in zip(read(folder), read(tmp_path / "cut"), strict=True):
        np.testing.assert_array_equal(before.columns["known"], after.columns["known"])
        np.testing.assert_array_equal(before.context_RC, after.context_RC)


def test_a_log_without_request_ids_is_cut_by_its_sessions(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = small_spec("kuairand")
    write_shards(tmp_path / "shards", spec, [9, 40, 3, 1], freshness="immediate")
    counts = write_cut(tmp_path / "shards", tmp_path / "cut", SessionCut(spec=spec))
    assert counts["known_cut"] > 0
    for packed in read(tmp_path / "cut", spec):
        place = np.concatenate([np.arange(n) for n in packed.lengths_S])
        np.testing.assert_array_equal(packed.columns["known"], place // 4 * 4)


def test_a_key_that_is_no_feature_is_told(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = small_spec("kuairand")
    write_shards(tmp_path / "shards", spec, [3, 4])
    features = tuple(f for f in spec.features if f.name != "actor_id")
    cut = SessionCut(
        spec=Spec(name="x", features=features, views=spec.views, tasks=spec.tasks),
        counted=pa.table({}),
    )
    with pytest.raises(ValueError, match="actor_id is no sequence feature"):
        write_cut(tmp_path / "shards", tmp_path / "cut", cut)
