# SPDX-License-Identifier: Apache-2.0
"""What is kept and said of a training run: its curve, and its throughput.

Knows numbers and the clock; does not know models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

CURVE_POINTS = 500
LOG_SECONDS = 10.0


@dataclass
class Curve:
    """The training curve: means over at most `2 * CURVE_POINTS` stretches of equal length.

    Attributes:
        steps: steps of the whole run.
        points: step (the stretch's last), loss, lr, and the loss of each task.
        pending: losses of the stretch that is not full yet.
    """

    steps: int
    tasks: tuple[str, ...]
    points: list[dict[str, Any]] = field(default_factory=list)
    pending: list[list[float]] = field(default_factory=list)

    def add(self, step: int, losses: list[float], lr: float) -> None:
        """One step: `losses` is the loss, then each task's; `lr` the rate it was taken with."""
        self.pending.append(losses)
        if len(self.pending) < max(self.steps // CURVE_POINTS, 1) and step < self.steps:
            return
        means = [sum(column) / len(self.pending) for column in zip(*self.pending, strict=True)]
        tasks = dict(zip(self.tasks, means[1:], strict=True))
        self.points.append({"step": step, "loss": means[0], "lr": lr, "tasks": tasks})
        self.pending = []


class Throughput:
    """Sequences and impressions a second since it was made."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.sequences = self.impressions = 0

    def count(self, sequences: int, impressions: int) -> None:
        """What one step trained on."""
        self.sequences += sequences
        self.impressions += impressions

    def due(self) -> bool:
        """Whether it is time to say it again."""
        now = time.monotonic()
        if now - self.last < LOG_SECONDS:
            return False
        self.last = now
        return True

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        rates = (self.sequences / seconds, self.impressions / seconds)
        return "{:.0f} sequences/s, {:.0f} impressions/s".format(*rates)
