# SPDX-License-Identifier: Apache-2.0
"""Daily training compared over the days of a log: what warm starts cost, keep and forget.

Each day is ranked by four models, as the daily loop would have had them the evening before:
*cold* is trained on everything anew, *warm* is yesterday's warm model with a loss on yesterday's
impressions alone, *stale* the same from weights that are some days old (yesterday's runs had
failed), *frozen* is never trained again. All four see full, current histories; only weights age.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.backtest.prepare import prepare
from components.backtest.split import Split
from components.console import progress
from components.layout.files import fingerprint
from components.layout.locks import locked
from components.layout.paths import absolute
from components.studies.config import StudyConfig
from components.studies.results import ResultsFile
from components.studies.scores import Differences, Scores, differences, score
from components.studies.trial import Log, log_home, timed, trained_seconds
from components.training.run import TrainingRun
from components.training.train import fit
from feature_repo.spec import Spec
from model.checkpoint import load_model

METHODS = ("cold", "warm", "stale", "frozen")
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DailyTraining:
    """Which days are compared.

    Attributes:
        log: each day of its test is ranked, by models trained on the days before it.
        stale_days: how old the weights of *stale* are.
        config: `cold` and `warm` say how each start is trained.
        work: folder of shards and weights.
        results: a row for each method and day.
    """

    log: Log
    stale_days: int
    config: StudyConfig
    work: Path
    results: ResultsFile

    @property
    def spec(self) -> Spec:
        """The feature spec."""
        return self.config.spec

    @property
    def days(self) -> list[str]:
        """The ranked days, in order."""
        low, high = (
            self.spec.day_number(d) for d in (self.log.train_before, self.log.test_through)
        )
        return [self.spec.day_name(day) for day in range(low, high + 1)]


def run(log: Log, stale_days: int, seeds: int, config: str, path: Path, work: Path) -> None:
    """`compare_daily` from names and paths, over the days that the log's cut ranks; see there."""
    start = log.config(config)
    setting = {
        **log.setting,
        "stale_days": stale_days,
        "config": start.model_dump(mode="json", exclude={"dcnv2"}),
    }
    study = DailyTraining(
        log=log,
        stale_days=stale_days,
        config=start,
        work=absolute(work),
        results=ResultsFile(path=path, name="incremental", setting=setting),
    )
    compare_daily(study, seeds)


def compare_daily(study: DailyTraining, seeds: int) -> None:
    """Trains and ranks day by day; what the results have is not done again.

    Raises:
        ValueError: a day is none or the log does not hold it; one sentence.
    """
    if not study.days:
        raise ValueError(
            f"there is no day from {study.log.train_before} to {study.log.test_through}"
        )
    if study.stale_days < 1:
        raise ValueError(f"weights {study.stale_days} days old are not stale; want 1 or more")
    with progress("days", seeds * len(study.days)) as advance:
        for seed in range(seeds):
            chain = _Chain(study, seed)
            with locked(chain.folder.with_suffix(".lock")):  # each day needs the one before
                for day in study.days:
                    chain.rank(day)
                    advance()
                chain.forget()


class _Chain:
    """One seed: the warm models, each made from the one before."""

    def __init__(self, study: DailyTraining, seed: int) -> None:
        self.study, self.seed = study, seed
        recipes = [study.config.cold, study.config.warm]
        settings = [study.config.feed_sr.model_dump_json(), study.spec.hash, study.log.name]
        settings += [recipe.model_dump_json() for recipe in recipes]
        settings += [study.log.train_before, str(study.stale_days), str(seed)]
        self.fingerprint = fingerprint(settings)
        self.folder = study.work / "daily" / self.fingerprint
        self.trained: dict[tuple[str, str], Path] = {}

    def rank(self, day: str) -> None:
        """Trains the day's models and puts their figures among the results."""
        if all(self._done(f"{day}: {method}") for method in METHODS):
            return
        models = {method: self.model(day, method) for method in METHODS}
        test = self._test(day)
        scored = {model: self._score(model, test) for model in set(models.values())}
        _, cold = scored[models["cold"]]
        for method, model in models.items():
            card, scores = scored[model]
            result = {
                "tasks": card["tasks"],
                "difference": self._apart(scores, cold),
                "train_seconds": trained_seconds(model),
            }
            self._put(f"{day}: {method}", day, method, result)

    def model(self, day: str, method: str) -> Path:
        """The folder of a day's model, trained where it is not there."""
        days = self.study.days
        place = days.index(day)
        if method == "frozen" or place == 0:
            day, method = days[0], "cold"
        if (day, method) not in self.trained:
            start = None
            if method != "cold":
                back = 1 if method == "warm" else self.study.stale_days
                start = self.model(days[max(place - back, 0)], "warm")
            self.trained[day, method] = self._fit(day, method, start)
        return self.trained[day, method]

    def forget(self) -> None:
        """How well the last models rank the first day, against the ones that had just learned it:
        what learning the days since has cost.
        """
        days = self.study.days
        row = f"forgetting: {days[0]}"
        if len(days) < 3 or self._done(row):
            return
        test = self._test(days[0])
        then, now = (self._score(self.model(d, "warm"), test) for d in (days[1], days[-1]))
        cold = self._score(self.model(days[-1], "cold"), test)
        result = {
            "tasks": now[0]["tasks"],
            "difference": self._apart(now[1], then[1]),
            "against_cold": self._apart(now[1], cold[1]),
        }
        self._put(row, days[0], "forgetting", result)

    def _fit(self, day: str, method: str, start: Path | None) -> Path:
        study = self.study
        recipe = study.config.cold if start is None else study.config.warm
        recipe = recipe.model_copy(update={"seed": recipe.seed + self.seed})
        folder = self.folder / f"{method}-{day}"
        shards = self._prepared(day, None if start is None else self._before(day, 2)).train
        run = TrainingRun(
            shards=shards,
            out=folder,
            ranker=study.config.feed_sr,
            spec=study.spec,
            config=recipe,
            freshness=study.config.freshness,
            start=start,
        )
        with timed(folder):
            fit(run)
        return folder

    def _before(self, day: str, days: int) -> str:
        return self.study.spec.day_name(self.study.spec.day_number(day) - days)

    def _prepared(self, day: str, after_day: str | None) -> Any:
        study = self.study
        split = Split(
            train_before=day,
            test_through=day,
            freshness=study.config.freshness,
            spec=study.spec,
            after_day=after_day,
        )
        home = log_home(study.work, study.log, study.spec)
        with locked(home.with_suffix(".lock")):
            return prepare(study.log.data, home, split, study.config)

    def _test(self, day: str) -> Path:
        return Path(self._prepared(day, None).test)

    def _score(self, folder: Path, test: Path) -> Any:
        ranker, _ = load_model(folder, self.study.spec)
        return score(ranker, test, self.study.spec)

    def _apart(self, mine: Scores, other: Scores) -> Differences:
        return differences([(mine, other)], self.study.spec.task_names)[0]

    def _done(self, row: str) -> bool:
        return self.study.results.seed(row, self.seed, self.fingerprint) is not None

    def _put(self, row: str, day: str, method: str, result: Entry) -> None:
        about = {"day": day, "method": method}
        whole = {"fingerprint": self.fingerprint, **result}
        self.study.results.put(row, about, self.seed, whole)
