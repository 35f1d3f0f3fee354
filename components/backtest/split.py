# SPDX-License-Identifier: Apache-2.0
"""A log and the days at which it is cut: trained on before one day, ranked from it on.

A value that every backtest and study takes, checked when it is made. It reads no log; of a folder
it asks the sources alone which kind of log it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from components.layout.paths import absolute
from components.log.sources import SimulatorConfig, detect_source
from feature_repo.spec import Spec
from model.config import first_fault

SIMULATED = "sim:"
OWN = "own"
"""The kind of a log that no shipped spec was made for."""


@dataclass(frozen=True, kw_only=True)
class LogSplit:
    """Which log is ranked, and where it is cut in time.

    Attributes:
        data: a folder that a source knows, or "sim:<impressions>[,<name>=<value>...]".
        train_before: the first day that is not trained on, YYYY-MM-DD, and the first that is
            ranked.
        test_through: the last day that is ranked.

    Raises:
        ValueError: a date is none, the test ends before it begins, or what follows "sim:" is no
            simulated log.
    """

    data: str
    train_before: str
    test_through: str

    def __post_init__(self) -> None:
        if Spec.day_number(self.test_through) < Spec.day_number(self.train_before):
            raise ValueError(
                f"the test ends on {self.test_through}, before it begins on {self.train_before}"
            )
        if self.is_simulated:
            simulator_config(self.data)

    @property
    def is_simulated(self) -> bool:
        """Whether the log is simulated here, so that its truth is known."""
        return self.data.startswith(SIMULATED)

    @property
    def kind(self) -> str:
        """The spec that the log's columns follow, or `OWN` for a log of another form."""
        if self.is_simulated:
            return "simulator"
        return detect_source(self.data).spec_name or OWN

    @property
    def name(self) -> str:
        """The folder's name, or how the log is simulated."""
        return absolute(self.data).name

    @property
    def setting(self) -> dict[str, str]:
        """What results say of it: the log's name and the days, not where the log lies."""
        return {**vars(self), "data": self.name}

    @property
    def train_through(self) -> str:
        """The last day that is trained on."""
        return Spec.days_after(self.train_before, -1)

    @property
    def test_days(self) -> list[str]:
        """The days that are ranked, in order."""
        first, last = map(Spec.day_number, (self.train_before, self.test_through))
        return [Spec.day_name(day) for day in range(first, last + 1)]

    def following(self, test_through: str) -> LogSplit:
        """The split whose test follows this one's, and which trains on all days before it."""
        return LogSplit(
            data=self.data,
            train_before=Spec.days_after(self.test_through, 1),
            test_through=test_through,
        )


def simulator_config(data: str) -> SimulatorConfig:
    """The configuration that "sim:<impressions>[,<name>=<value>...]" stands for.

    Raises:
        ValueError: it has another form, or the simulator has no such value.
    """
    number, *others = data.removeprefix(SIMULATED).split(",")
    pairs = [other.partition("=") for other in others]
    if not number.isdecimal() or not all(sign for _, sign, _ in pairs):
        raise ValueError(
            f"{data!r} is no simulated log: write sim: and how many impressions, then maybe values "
            "of the simulator, as in sim:60000,ranked=1"
        )
    values = {"impressions": number, **{name: value for name, _, value in pairs}}
    try:
        return SimulatorConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{data!r} is no simulated log: {first_fault(error)}") from error
