# SPDX-License-Identifier: Apache-2.0
"""The train step: a day's shards become a ranker, taught by others where its configuration says so.

It decides which runs there are and in which order; `components.training.run` does one. Many
processes that share a file system: `torchrun --standalone --nproc-per-node 2 -m
components.training.train --root DIR --day DAY --config NAME`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from components.config import DailyConfig, TrainConfig, load_config
from components.layout.paths import Layout
from components.training.distributed import process_group
from components.training.run import Record, TrainingRun


def train(
    layout: Layout, day: str, config: DailyConfig, ranker: str, start: Path | None = None
) -> Record:
    """Trains one ranker of a day's run on `layout.sequences("train", day)`.

    Args:
        start: folder of the weights to start from (warm, `config.warm`); None is a cold start.

    Returns:
        The training record, which is also in `layout.model(day, ranker)`.

    Raises:
        ValueError: the loop has no such ranker; or see `fit`.
    """
    known = config.rankers
    if ranker not in known:
        raise ValueError(f"there is no ranker {ranker!r}; have {', '.join(known)}")
    run = TrainingRun(
        shards=layout.sequences("train", day),
        out=layout.model(day, ranker),
        ranker=known[ranker],
        spec=config.spec,
        config=config.cold if start is None else config.warm,
        freshness=config.freshness,
        start=start,
    )
    return fit(run)


def fit(run: TrainingRun) -> Record:
    """Trains a run's ranker, and before it the teachers that the run wants and was not given.

    These lie in `teachers/<name>` beside the run's folder until it is finished.

    Raises:
        ValueError: see `TrainingRun.train`.
    """
    folder = run.out.parent / "teachers" / run.out.name
    with process_group() as group:
        if run.config.teachers and not run.teachers and run.finished() is None:
            run = replace(run, teachers=_train_teachers(run, folder))
        record = run.train()
        if group.leads:
            shutil.rmtree(folder, ignore_errors=True)
    return record


def _train_teachers(run: TrainingRun, folder: Path) -> tuple[Path, ...]:
    """Trains each teacher as the run's ranker will be, and returns their folders."""
    teachers = [
        replace(run, out=folder / f"seed-{config.seed}", config=config)
        for config in teacher_configs(run.config)
    ]
    for teacher in teachers:
        teacher.train()
    return tuple(teacher.out for teacher in teachers)


def teacher_configs(config: TrainConfig) -> list[TrainConfig]:
    """How each teacher of a run is trained: with the next seeds, and without teachers."""
    return [
        config.model_copy(update={"seed": config.seed + number, "teachers": 0})
        for number in range(1, config.teachers + 1)
    ]


def main(
    root: Annotated[Path, typer.Option(help="the run's root")],
    day: Annotated[str, typer.Option(help="as-of day, YYYY-MM-DD")],
    config: Annotated[str, typer.Option(help="a shipped configuration or a JSON file")],
    ranker: Annotated[str, typer.Option(help="feed_sr or dcnv2")] = "feed_sr",
    start: Annotated[Path | None, typer.Option(help="weights to start from")] = None,
) -> None:
    """Trains one ranker of a day's run; also under torchrun."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(Layout.at(root), day, load_config(config), ranker, start)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    typer.run(main)
