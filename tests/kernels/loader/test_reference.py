# SPDX-License-Identifier: Apache-2.0
"""Cut, joined and shuffled packs: each against a row-by-row oracle, and what a shuffle may move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.spec import Freshness
from feature_repo.specs import KUAIRAND
from kernels.loader import Packed, read_shard
from kernels.loader.reference import Shuffle, concatenate, session_runs, take
from serving.history import known_counts
from tests.kernels.loader.packs import FORMAT, assert_same_rows, rows_of


@pytest.mark.parametrize("limit", [1, 5, 13])
def test_a_long_sequence_keeps_its_newest_impressions(paths: list[Path], limit: int) -> None:
    packed = read_shard(paths[0], FORMAT)
    rows = np.array([7, 3, 3, 90])
    expected = []
    for row in rows_of(packed):
        cut = max(len(row["loss"]) - limit, 0)
        dropped = sum(code == 1 for code in row["loss"][:cut])
        kept = {n: v[cut:] for n, v in row.items() if n in packed.columns}
        kept["known"] = [max(k - cut, 0) for k in kept["known"]]
        kept["context"] = row["context"][dropped * FORMAT.context_width :]
        expected.append({**kept, **{n: row[n] for n in packed.keys}})
    assert_same_rows(rows_of(take(packed, rows, limit)), [expected[i] for i in rows])


def test_pieces_put_together_are_the_batch(paths: list[Path]) -> None:
    packed = read_shard(paths[0], FORMAT)
    pieces = list(packed.cut(32))
    assert [p.num_sequences for p in pieces] == [32, 32, 32, 4]
    assert np.shares_memory(pieces[1].columns["position"], packed.columns["position"])
    assert_same_rows(rows_of(concatenate(pieces)), rows_of(packed))


@st.composite
def histories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Known prefixes (of any freshness, late events among them) and sessions of one sequence."""
    size = draw(st.integers(1, 24))
    known = [draw(st.integers(0, i)) for i in range(size)]
    shape = draw(st.sampled_from(["any", "monotone", "immediate", "day"]))
    if shape == "monotone":
        known = np.minimum(np.maximum.accumulate(known), np.arange(size)).tolist()
    if shape == "immediate":
        known = list(range(size))
    if shape == "day":
        step = draw(st.integers(1, 6))
        known = [i // step * step for i in range(size)]
    session = np.cumsum([draw(st.integers(0, 1)) for _ in range(size)]) - draw(st.integers(0, 1))
    return np.array(known, np.int32), session.astype(np.int64)


def one_sequence(known: np.ndarray, session: np.ndarray, number: int = 0) -> Packed:
    size = len(known)
    loss = (np.arange(size) % 3).astype(np.int8)
    row = np.arange(size)[loss == 1].astype(np.float32)
    columns = {"known": known, "session_id": session, "loss": loss, "id": np.arange(size)}
    return Packed(
        columns=columns,
        cu_seqlens=np.array([0, size], np.int32),
        context_RC=row[:, None],
        sequence_S=np.array([number]),
        keys={},
    )


def shuffled(
    packed: Packed, seed: int, epoch: int, *, trade: bool = False, limit: int | None = None
) -> Packed:
    """The whole pack with its sessions shuffled."""
    shuffle = Shuffle(session="session_id", seed=seed, epoch=epoch, trade_slots=trade)
    return take(packed, np.arange(packed.num_sequences), limit, shuffle)


@pytest.mark.law
@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 3), st.booleans())
def test_a_shuffle_brings_nothing_into_a_prefix_that_was_not_known(
    history: tuple[np.ndarray, np.ndarray], epoch: int, trade: bool
) -> None:
    known, session = history
    mixed = shuffled(one_sequence(known, session), 1, epoch, trade=trade)
    ids = mixed.columns["id"]
    assert sorted(ids) == list(range(len(known)))
    assert mixed.columns["known"].tolist() == known.tolist()
    assert (session[ids] == session).all(), "an impression left its session"
    moved = ids != np.arange(len(known))
    assert (session[moved] >= 0).all(), "an impression without a session moved"
    immediate = (known == np.arange(len(known))) & trade
    for slot in np.flatnonzero(~immediate):
        prefix = known[slot]
        assert set(ids[:prefix]) == set(range(prefix)), "a known prefix changed"
    loss, context = mixed.columns["loss"], mixed.context_RC[:, 0]
    assert context.tolist() == ids[loss == 1].tolist(), "context left its target"


@pytest.mark.law
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 240), st.integers(0, 90)), min_size=1, max_size=16),
    st.sampled_from(["day", "30m"]),
    st.integers(0, 3),
    st.none() | st.integers(1, 16),
)
def test_no_order_lets_an_impression_see_what_serving_did_not_know(
    served: list[tuple[int, int]], freshness: Freshness, epoch: int, limit: int | None
) -> None:
    """One session (by its request id) of four hours around midnight, minutes apart, cut or not."""
    midnight = int(KUAIRAND.day_start(np.array([20_000]))[0])
    event, late = np.array(served, np.int64).T * 60_000
    event = event + midnight - 2 * 3_600_000
    order = np.lexsort((event, event + late))
    event, arrival = event[order], (event + late)[order]
    known = known_counts(event, arrival, KUAIRAND, freshness)
    packed = one_sequence(known, np.zeros(len(known), np.int64))
    mixed = shuffled(packed, 1, epoch, limit=limit)
    cutoff = KUAIRAND.cutoff(event, freshness)
    ids = mixed.columns["id"]
    for slot, prefix in enumerate(mixed.columns["known"]):
        assert (arrival[ids[:prefix]] < cutoff[ids[slot]]).all(), "a target sees its future"


def test_runs_are_as_long_as_they_may_be() -> None:
    def runs(known: list[int], session: list[int], trade: bool = False) -> list[int]:
        bounds = np.array([0, len(known)])
        return session_runs(np.array(known), np.array(session), bounds, trade_slots=trade).tolist()

    assert runs([0, 0, 0, 3, 3], [1, 1, 1, 1, 1]) == [0, 0, 0, 1, 1]  # two days, one session
    assert runs([0, 0, 0, 0], [1, 1, 2, 2]) == [0, 0, 1, 1]
    assert runs([0, 1, 2, 3], [1, 1, 1, 2], trade=True) == [0, 0, 0, 1]  # immediate
    assert runs([0, 1, 2, 2, 4], [1] * 5, trade=True) == [0, 0, 1, 1, 2]  # a tie: known to both
    assert runs([0, 1], [1, 1]) == [0, 1]  # one before midnight, one after
    assert runs([0, 0, 0, 1], [1] * 4) == [0, 1, 1, 2]  # 30 minutes later, only one is known
    assert runs([0, 0], [-1, -1]) == [0, 1]


def test_a_sequence_is_shuffled_alike_in_any_batch(paths: list[Path]) -> None:
    packed = read_shard(paths[0], FORMAT, first=0)
    rows = np.array([40, 2, 77])
    alone = take(packed, rows)
    a = shuffled(packed, 3, 5)
    b = shuffled(alone, 3, 5)
    assert_same_rows(rows_of(take(a, rows)), rows_of(b))
    c = shuffled(packed, 3, 6)
    assert (a.columns["post_id"] != c.columns["post_id"]).any()


def test_every_order_of_a_session_is_as_likely() -> None:
    known, session = np.zeros(3, np.int32), np.ones(3, np.int64)
    orders: dict[tuple, int] = {}
    for number in range(3000):
        mixed = shuffled(one_sequence(known, session, number), 0, 0)
        key = tuple(mixed.columns["id"].tolist())
        orders[key] = orders.get(key, 0) + 1
    assert len(orders) == 6
    assert all(400 < count < 600 for count in orders.values())
