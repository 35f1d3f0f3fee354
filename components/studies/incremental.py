# SPDX-License-Identifier: Apache-2.0
"""Daily training compared over the days of a log: what warm starts cost, keep and forget.

Each day is ranked by four models, as the daily loop would have had them the evening before:
*cold* is trained on everything anew, *warm* is yesterday's warm model with a loss on yesterday's
impressions alone, *stale* the same from weights that are some days old (yesterday's runs had
failed), *frozen* is never trained again. All four see full, current histories; only weights age.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.backtest.prepare import Prepared
from components.backtest.rankers import seeded
from components.backtest.split import LogSplit
from components.console import progress
from components.layout.files import fingerprint
from components.layout.locks import locked
from components.layout.paths import absolute
from components.studies.config import StudyConfig, starting_config
from components.studies.learners import train_timed, trained_seconds
from components.studies.results import Entry, ResultsFile
from components.studies.scores import Differences, Scores, differences, score
from components.studies.trial import prepare_log
from components.training.run import TrainingRun
from feature_repo.spec import Spec
from model.checkpoint import load_model

METHODS = ("cold", "warm", "stale", "frozen")
Scored = tuple[dict[str, Any], Scores]
"""A model's scorecard of a day, and its scores."""


@dataclass(frozen=True, kw_only=True)
class DailyTraining:
    """Which days are compared.

    Attributes:
        split: each day of its test is ranked, by models trained on the days before it.
        stale_days: how old the weights of *stale* are.
        config: `cold` and `warm` say how each start is trained.
        work: folder of shards and weights.
        results: a row for each method and day.

    Raises:
        ValueError: stale weights are of the day before, or of a day to come.
    """

    split: LogSplit
    stale_days: int
    config: StudyConfig
    work: Path
    results: ResultsFile

    def __post_init__(self) -> None:
        if self.stale_days < 1:
            raise ValueError(f"weights {self.stale_days} days old are not stale; want 1 or more")

    @property
    def spec(self) -> Spec:
        """The feature spec."""
        return self.config.spec

    @property
    def days(self) -> list[str]:
        """The ranked days, in order."""
        return self.split.test_days


def run(split: LogSplit, stale_days: int, seeds: int, config: str, path: Path, work: Path) -> None:
    """`compare_daily` from names and paths, over the days that the split ranks; see there."""
    start = starting_config(split, config)
    setting = {
        **split.setting,
        "stale_days": stale_days,
        "config": start.model_dump(mode="json", exclude={"dcnv2"}),
    }
    study = DailyTraining(
        split=split,
        stale_days=stale_days,
        config=start,
        work=absolute(work),
        results=ResultsFile(path=path, name="incremental", setting=setting),
    )
    compare_daily(study, seeds)


def compare_daily(study: DailyTraining, seeds: int) -> None:
    """Trains and ranks day by day; what the results have is not done again.

    Raises:
        ValueError: the log does not hold a day; one sentence.
    """
    with progress("days", seeds * len(study.days)) as advance:
        for seed in range(seeds):
            chain = ModelChain(study, seed)
            with locked(chain.folder.with_suffix(".lock")):  # each day needs the one before
                for day in study.days:
                    chain.rank(day)
                    advance()
                chain.forget()


class ModelChain:
    """One seed: the warm models, each made from the one before."""

    def __init__(self, study: DailyTraining, seed: int) -> None:
        self.study, self.seed = study, seed
        trainings = [study.config.cold, study.config.warm]
        settings = [study.config.feed_sr.model_dump_json(), study.spec.hash, study.split.name]
        settings += [training.model_dump_json() for training in trainings]
        settings += [study.split.train_before, str(study.stale_days), str(seed)]
        self.fingerprint = fingerprint(settings)
        self.folder = study.work / "daily" / self.fingerprint
        self._models: dict[tuple[str, str], Path] = {}

    def rank(self, day: str) -> None:
        """Trains the day's models and puts their figures among the results."""
        if all(self._is_done(f"{day}: {method}") for method in METHODS):
            return
        models = {method: self.model(day, method) for method in METHODS}
        test = self._test(day)
        scored = {model: self._score(model, test) for model in set(models.values())}
        cold = scored[models["cold"]]
        for method, model in models.items():
            result = {
                "tasks": scored[model][0]["tasks"],
                "difference": self._difference(scored[model], cold),
                "train_seconds": trained_seconds(model),
            }
            self._put(f"{day}: {method}", day, method, result)

    def model(self, day: str, method: str) -> Path:
        """The folder of a day's model, trained where it is not there."""
        days = self.study.days
        place = days.index(day)
        if method == "frozen" or place == 0:
            day, method = days[0], "cold"
        if (day, method) not in self._models:
            start = None
            if method != "cold":
                back = 1 if method == "warm" else self.study.stale_days
                start = self.model(days[max(place - back, 0)], "warm")
            self._models[day, method] = self._train(day, method, start)
        return self._models[day, method]

    def forget(self) -> None:
        """Measures what learning the days since the first has cost.

        That is how well the last models rank the first day, against those that had just learned it.
        """
        days = self.study.days
        row = f"forgetting: {days[0]}"
        if len(days) < 3 or self._is_done(row):
            return
        test = self._test(days[0])
        then, now = (self._score(self.model(day, "warm"), test) for day in (days[1], days[-1]))
        cold = self._score(self.model(days[-1], "cold"), test)
        result = {
            "tasks": now[0]["tasks"],
            "difference": self._difference(now, then),
            "against_cold": self._difference(now, cold),
        }
        self._put(row, days[0], "forgetting", result)

    def prepare(self, day: str, after_day: str | None = None) -> Prepared:
        """The shards of a day and of what is trained on before it, newer than a watermark."""
        study = self.study
        split = replace(study.split, train_before=day, test_through=day)
        return prepare_log(study.work, split, study.config, after_day)

    def _train(self, day: str, method: str, start: Path | None) -> Path:
        config = self.study.config
        training = config.cold if start is None else config.warm
        run = TrainingRun(
            shards=self.prepare(day, None if start is None else Spec.days_after(day, -2)).train,
            out=self.folder / f"{method}-{day}",
            ranker=config.feed_sr,
            spec=config.spec,
            config=seeded(training, self.seed),
            freshness=config.freshness,
            start=start,
        )
        train_timed(run)
        return run.out

    def _test(self, day: str) -> Path:
        return self.prepare(day).test

    def _score(self, folder: Path, test: Path) -> Scored:
        ranker, _ = load_model(folder, self.study.spec)
        return score(ranker, test, self.study.spec)

    def _difference(self, own: Scored, other: Scored) -> Differences:
        return differences([(own[1], other[1])], self.study.spec.task_names)[0]

    def _is_done(self, row: str) -> bool:
        return self.study.results.seed(row, self.seed, self.fingerprint) is not None

    def _put(self, row: str, day: str, method: str, result: Entry) -> None:
        about = {"day": day, "method": method}
        whole = {"fingerprint": self.fingerprint, **result}
        self.study.results.put(row, about, self.seed, whole)
