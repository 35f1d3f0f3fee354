# SPDX-License-Identifier: Apache-2.0
"""Joins the requests that are waiting into one call of a function in a thread of its own.

It knows nothing of models: `run` takes a list of items and returns as many results, and by the
design's law 5 a result does not depend on its company.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import TooLate, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """Limits of the joiner.

    Attributes:
        window_ms: how long a batch waits for company after the thread was busy; a lone caller never
            waits.
        max_batch: most items in one call.
        max_queue: most items that wait; the next one is refused with 503.

    Raises:
        ValueError: limits under which nothing would ever be called.
    """

    window_ms: float = 2.0
    max_batch: int = 16
    max_queue: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.window_ms < math.inf:
            raise ValueError(f"the batch window is {self.window_ms} ms, want 0 or more")
        for name in ("max_batch", "max_queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, want 1 or more")


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    done: asyncio.Future[Result]
    deadline: float | None


class Batcher(Generic[Item, Result]):
    """One thread, a bounded queue, and a loop that empties the queue into the thread.

    Args:
        run: called in the thread with 1 to `max_batch` items.
        observe: called with the size and the seconds of each batch.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        config: BatcherConfig | None = None,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run, self._observe = run, observe
        self.config = config or BatcherConfig()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._loop: asyncio.Task[None] | None = None
        self._company = False
        self._expected = 0.0

    async def submit(self, item: Item, deadline: float | None = None) -> Result:
        """The item's result.

        Args:
            item: what `run` takes.
            deadline: on the clock of `time.monotonic`; refused at once if it cannot be met.

        Raises:
            Unavailable: the queue is full.
            TooLate: the deadline passed while waiting, or is nearer than a call takes.
        """
        if len(self._queue) >= self.config.max_queue:
            raise Unavailable(f"{len(self._queue)} requests are waiting already; try again later")
        if deadline is not None and time.monotonic() + self._expected > deadline:
            # A refusal is no measurement, so that one slow call cannot shut everybody out for good.
            self._expected *= 0.9
            raise TooLate("the deadline cannot be met; the request was not started")
        waiting = _Waiting(item, asyncio.get_running_loop().create_future(), deadline)
        self._queue.append(waiting)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._empty())
        try:
            return await waiting.done
        except asyncio.CancelledError:
            # Who left takes no place in the queue.
            if waiting in self._queue:
                self._queue.remove(waiting)
            raise

    def close(self) -> None:
        """Ends the thread after the call that is running."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _empty(self) -> None:
        while self._queue:
            if self._company and len(self._queue) < self.config.max_batch:
                await asyncio.sleep(self.config.window_ms / 1000)
            batch = self._take()
            if batch:
                await self._call(batch)
                self._company = len(batch) > 1 or bool(self._queue)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next items that are still wanted and still in time."""
        batch: list[_Waiting[Item, Result]] = []
        now = time.monotonic()
        while self._queue and len(batch) < self.config.max_batch:
            waiting = self._queue.popleft()
            if waiting.done.done():
                continue
            if waiting.deadline is not None and now > waiting.deadline:
                waiting.done.set_exception(TooLate("the deadline passed while the request waited"))
                continue
            batch.append(waiting)
        return batch

    async def _call(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Runs a batch; where that fails each item is run alone, so that a bad one fails alone."""
        start, loop = time.monotonic(), asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, [w.item for w in batch])
            assert len(results) == len(batch)
        except Exception as error:
            if len(batch) > 1:
                for waiting in batch:
                    await self._call([waiting])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        seconds = time.monotonic() - start
        self._expected = seconds if self._expected == 0 else 0.8 * self._expected + 0.2 * seconds
        self._observe(len(batch), seconds)
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(result)
