# SPDX-License-Identifier: Apache-2.0
"""The joiner: who waits together is called together; a full queue and a late caller are refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from serving.errors import TooLate, Unavailable
from serving.predictor.batcher import Batcher, BatcherConfig


class Work:
    """Doubles numbers in batches, and waits at a gate when there is one."""

    def __init__(self, gate: threading.Event | None = None, seconds: float = 0.0) -> None:
        self.gate, self.seconds = gate, seconds
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def __call__(self, items: list[int]) -> list[int]:
        self.threads.add(threading.get_ident())
        self.batches.append(list(items))
        if self.gate:
            assert self.gate.wait(10)
        time.sleep(self.seconds)
        if -1 in items:
            raise ArithmeticError("minus one")
        return [2 * i for i in items]


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 20))


def test_requests_that_wait_while_the_model_is_busy_are_joined() -> None:
    gate = threading.Event()
    work = Work(gate)

    async def main() -> list[int]:
        batcher = Batcher(work)
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(batcher.submit(i)) for i in range(1, 6)]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(first, *rest)

    assert run(main()) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3, 4, 5]]
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads


def test_a_batch_is_bounded() -> None:
    work = Work()

    async def main() -> list[int]:
        batcher = Batcher(work, BatcherConfig(max_batch=4))
        return await asyncio.gather(*(batcher.submit(i) for i in range(10)))

    assert run(main()) == [2 * i for i in range(10)]
    assert max(map(len, work.batches)) <= 4


def test_a_lone_caller_does_not_wait_for_company() -> None:
    work = Work()

    async def main() -> float:
        batcher = Batcher(work, BatcherConfig(window_ms=500))
        start = time.monotonic()
        for i in range(5):
            await batcher.submit(i)
        return time.monotonic() - start

    assert run(main()) < 0.4


def test_a_full_queue_is_refused() -> None:
    gate = threading.Event()

    async def main() -> list[Any]:
        batcher = Batcher(Work(gate), BatcherConfig(max_queue=2))
        tasks = [asyncio.create_task(batcher.submit(0))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batcher.submit(i)) for i in range(1, 5)]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(main())
    assert results[:3] == [0, 2, 4]
    assert [type(r) for r in results[3:]] == [Unavailable, Unavailable]
    assert "waiting already" in str(results[3])


def test_a_deadline_that_passes_in_the_queue_is_refused_unstarted() -> None:
    gate = threading.Event()
    work = Work(gate)

    async def main() -> list[Any]:
        batcher = Batcher(work)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(batcher.submit(2, time.monotonic() + 0.05))
        await asyncio.sleep(0.2)
        gate.set()
        return await asyncio.gather(first, late, return_exceptions=True)

    first, late = run(main())
    assert first == 2
    assert isinstance(late, TooLate)
    assert work.batches == [[1]]


def test_a_deadline_nearer_than_a_call_takes_is_refused_at_once_but_not_for_ever() -> None:
    work = Work(seconds=0.1)

    async def main() -> int:
        batcher = Batcher(work)
        await batcher.submit(1)
        work.seconds, refused = 0.0, 0
        while True:
            try:
                await batcher.submit(2, time.monotonic() + 0.03)
                return refused
            except TooLate:
                refused += 1

    assert 1 <= run(main()) < 50
    assert work.batches == [[1], [2]]


def test_a_bad_request_fails_alone() -> None:
    work = Work()

    async def main() -> list[Any]:
        batcher = Batcher(work)
        bad = asyncio.gather(batcher.submit(-1), batcher.submit(3), return_exceptions=True)
        return [*await bad, await batcher.submit(4)]

    first, second, third = run(main())
    assert isinstance(first, ArithmeticError)
    assert (second, third) == (6, 8)
    assert work.batches == [[-1, 3], [-1], [3], [4]]


def test_a_caller_who_left_is_not_computed() -> None:
    gate = threading.Event()
    work = Work(gate)

    async def main() -> list[int]:
        batcher = Batcher(work)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(batcher.submit(2))
        stays = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0.05)
        gone.cancel()
        gate.set()
        return await asyncio.gather(first, stays)

    assert run(main()) == [2, 6]
    assert work.batches == [[1], [3]]


def test_a_caller_who_left_takes_no_place_in_the_queue() -> None:
    gate = threading.Event()

    async def main() -> list[int]:
        batcher = Batcher(Work(gate), BatcherConfig(max_queue=1))
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        stays = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(first, stays)

    assert run(main()) == [2, 6]


@pytest.mark.parametrize("kind", [Unavailable, TooLate])
def test_a_refusal_says_its_sentence(kind: type[Exception]) -> None:
    assert str(kind("no room")) == "no room"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_batch": 0}, "max_batch is 0, want 1 or more"),
        ({"max_batch": -3}, "max_batch is -3, want 1 or more"),
        ({"max_queue": 0}, "max_queue is 0, want 1 or more"),
        ({"window_ms": -0.5}, "the batch window is -0.5 ms, want 0 or more"),
        ({"window_ms": float("inf")}, "the batch window is inf ms, want 0 or more"),
        ({"window_ms": float("nan")}, "the batch window is nan ms, want 0 or more"),
    ],
)
def test_limits_under_which_nothing_is_called_are_refused(limits: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BatcherConfig(**limits)


def test_the_smallest_limits_serve() -> None:
    async def main() -> list[int]:
        batcher = Batcher(Work(), BatcherConfig(window_ms=0, max_batch=1, max_queue=1))
        return [await batcher.submit(i) for i in (3, 5)]

    assert run(main()) == [6, 10]


def test_an_empty_queue_calls_nothing() -> None:
    """Nobody is left of those who waited: the next caller is served, alone."""
    gate = threading.Event()
    work = Work(gate)

    async def main() -> int:
        batcher = Batcher(work)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(batcher.submit(2, time.monotonic() + 0.01))
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, late, return_exceptions=True)
        return await batcher.submit(4)

    assert run(main()) == 8
    assert work.batches == [[1], [4]]


def test_the_limits_are_these_where_none_are_said() -> None:
    assert BatcherConfig() == BatcherConfig(window_ms=2.0, max_batch=16, max_queue=64)


class Clock:
    """A clock that moves where a call of `run` says so; what the batcher reads instead of time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def run(self, items: list[int]) -> list[int]:
        self.now += self.takes.pop(0)
        return items


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("serving.predictor.batcher.time", fake)
    return fake


def test_how_long_a_call_takes_is_remembered_and_decides(clock: Clock) -> None:
    """1 s; a refusal makes it .9; .8 * .9 + .2 * .5 = .82; a refusal makes it .738."""
    seen: list[tuple[int, float]] = []

    async def main() -> None:
        batcher = Batcher(clock.run, observe=lambda size, seconds: seen.append((size, seconds)))

        async def taken(left: float, seconds: float) -> bool:
            clock.takes = [seconds]
            try:
                await batcher.submit(7, clock.now + left)
            except TooLate:
                return False
            return True

        assert await taken(0.0, 1.0)
        assert not await taken(0.999, 9.0)
        assert await taken(0.9, 0.5)
        assert not await taken(0.819, 9.0)
        assert not await taken(0.737, 9.0)
        assert await taken(0.665, 0.25)

    run(main())
    assert [size for size, _ in seen] == [1, 1, 1]
    assert [seconds for _, seconds in seen] == pytest.approx([1.0, 0.5, 0.25])


def test_a_first_call_is_expected_to_take_no_time(clock: Clock) -> None:
    async def main() -> int:
        clock.takes = [0.5]
        with pytest.raises(TooLate):
            await Batcher(clock.run).submit(1, clock.now - 0.001)
        return await Batcher(clock.run).submit(2, clock.now)

    assert run(main()) == 2


def test_a_deadline_is_met_to_its_last_moment_in_the_queue(clock: Clock) -> None:
    """Each waits while a call moves the clock to 101: one may wait until then, one a bit less."""
    gate = threading.Event()

    def held(items: list[int]) -> list[int]:
        assert gate.wait(10)
        return clock.run(items)

    async def main() -> list[Any]:
        batcher = Batcher(held)
        clock.takes = [1.0, 0.0]
        waiting = [asyncio.create_task(batcher.submit(0))]
        await asyncio.sleep(0.05)
        for place, left in enumerate((1.0, 0.999), 1):
            waiting.append(asyncio.create_task(batcher.submit(place, clock.now + left)))
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, exact, late = run(main())
    assert (first, exact) == (0, 1)
    assert isinstance(late, TooLate)
    assert "passed while the request waited" in str(late)


def test_company_is_waited_for_once_there_was_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once make company; a lone caller then waits one window, and the next one does not."""
    windows: list[float] = []
    sleep = asyncio.sleep

    async def window(seconds: float) -> None:
        windows.append(seconds)
        await sleep(0)

    work = Work()

    async def main() -> None:
        batcher = Batcher(work, BatcherConfig(window_ms=250, max_batch=2))
        await batcher.submit(1)
        assert windows == []
        await asyncio.gather(batcher.submit(2), batcher.submit(3))
        assert windows == []
        await asyncio.gather(batcher.submit(4), batcher.submit(5))
        assert windows == []
        await batcher.submit(6)
        assert windows == [0.25]
        await batcher.submit(7)
        assert windows == [0.25]
        await asyncio.gather(*(batcher.submit(i) for i in (8, 9, 10)))
        assert windows == [0.25, 0.25]

    monkeypatch.setattr(asyncio, "sleep", window)
    run(main())
    assert work.batches == [[1], [2, 3], [4, 5], [6], [7], [8, 9], [10]]


def test_a_queue_behind_a_lone_call_is_company(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[float] = []
    sleep, gate = asyncio.sleep, threading.Event()

    async def window(seconds: float) -> None:
        windows.append(seconds)
        await sleep(0)

    async def main() -> list[int]:
        batcher = Batcher(Work(gate), BatcherConfig(window_ms=250))
        first = asyncio.create_task(batcher.submit(1))
        await sleep(0.05)
        second = asyncio.create_task(batcher.submit(2))
        await sleep(0.05)
        gate.set()
        return await asyncio.gather(first, second)

    monkeypatch.setattr(asyncio, "sleep", window)
    assert run(main()) == [2, 4]
    assert windows == [0.25]


def test_an_unequal_number_of_results_is_a_mistake() -> None:
    async def main() -> Any:
        batcher = Batcher(lambda items: items[1:])
        return await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)

    assert [type(result) for result in run(main())] == [AssertionError, AssertionError]


def test_closing_ends_the_thread_after_the_call_that_runs() -> None:
    work = Work(seconds=0.2)

    async def main() -> int:
        batcher = Batcher(work)
        running = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0.05)
        batcher.close()
        alive = [t for t in threading.enumerate() if t.ident in work.threads]
        assert alive == []
        return await running

    assert run(main()) == 6


def test_a_caller_who_left_while_it_was_computed_harms_nobody() -> None:
    gate = threading.Event()

    async def main() -> list[Any]:
        batcher = Batcher(Work(gate))
        pair = [asyncio.create_task(batcher.submit(i)) for i in (-1, 3)]
        lone = [asyncio.create_task(batcher.submit(4))]
        await asyncio.sleep(0.05)
        pair[0].cancel()
        gate.set()
        return await asyncio.gather(*pair, *lone, return_exceptions=True)

    left, second, third = run(main())
    assert isinstance(left, asyncio.CancelledError)
    assert (second, third) == (6, 8)


def test_there_is_one_thread_and_it_has_a_name() -> None:
    async def main() -> str:
        batcher = Batcher(lambda items: [threading.current_thread().name for _ in items])
        assert batcher._thread._max_workers == 1
        return await batcher.submit(1)

    assert run(main()).startswith("model")
