# SPDX-License-Identifier: Apache-2.0
"""Commands that measure logs, rankers and ways to train, and change none of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.cli.options import LogConfigName

if TYPE_CHECKING:
    from components.backtest.split import LogSplit

studies = typer.Typer()
command = partial(studies.command, rich_help_panel="Studies")
Data = Annotated[str, typer.Option(help="folder, or sim:<impressions>[,<name>=<value>...]")]
TrainBefore = Annotated[str, typer.Option(help="first day that is not trained on")]
TestThrough = Annotated[str, typer.Option(help="last day that is ranked")]
ResultsPath = Annotated[Path | None, typer.Option("--json", help="results, added to")]
Seeds = Annotated[int, typer.Option(min=1, help="train each one so often")]
Work = Annotated[Path, typer.Option(help="folder to work in, reused")]
WorkIfAny = Annotated[
    Path | None, typer.Option(help="folder to work in, reused; default: runs/backtest/DATA")
]
JsonPath = Annotated[Path | None, typer.Option("--json", help="also write it there")]
STUDIES = Path("runs/studies")


@command()
def backtest(
    data: Data,
    train_before: TrainBefore,
    test_through: TestThrough,
    rankers: Annotated[str, typer.Option(help="names with commas")] = "feed_sr,dcnv2",
    freshness: Annotated[str, typer.Option(help="day, 30m or immediate")] = "day",
    seeds: Seeds = 1,
    json_file: JsonPath = None,
    config: LogConfigName = "",
    work: WorkIfAny = None,
) -> None:
    """Train each ranker before a date and rank the days after it."""
    from components.backtest.backtest import BacktestOptions
    from components.backtest.backtest import backtest as run
    from components.backtest.split import LogSplit
    from feature_repo.spec import FRESHNESS

    if freshness not in FRESHNESS:
        raise ValueError(f"freshness is {freshness!r}, want one of {', '.join(FRESHNESS)}")
    fresh = FRESHNESS[FRESHNESS.index(freshness)]
    names = tuple(name.strip() for name in rankers.split(","))
    options = BacktestOptions(rankers=names, freshness=fresh, seeds=seeds, config=config, work=work)
    split = LogSplit(data=data, train_before=train_before, test_through=test_through)
    run(split, options, json_file)


@command()
def leakage(
    data: Data,
    train_before: TrainBefore,
    test_through: TestThrough,
    sessions: Annotated[str, typer.Option(help="logged, or pause: visits of requests")] = "logged",
    ranker: Annotated[str, typer.Option(help="any that backtest knows")] = "feed_sr",
    seeds: Seeds = 1,
    json_file: JsonPath = None,
    config: LogConfigName = "",
    work: WorkIfAny = None,
) -> None:
    """Measure how much of a log's AUC is same-session feedback."""
    from components.backtest.split import LogSplit
    from components.studies.leakage.cut import SESSIONS
    from components.studies.leakage.study import LeakageOptions
    from components.studies.leakage.study import leakage as run

    if sessions not in SESSIONS:
        raise ValueError(f"sessions is {sessions!r}, want one of {', '.join(SESSIONS)}")
    options = LeakageOptions(
        sessions=SESSIONS[SESSIONS.index(sessions)],
        ranker=ranker,
        seeds=seeds,
        config=config,
        work=work,
    )
    split = LogSplit(data=data, train_before=train_before, test_through=test_through)
    run(split, options, json_file)


@command()
def ablate(
    data: Data,
    train_before: TrainBefore,
    test_through: TestThrough,
    parts: Annotated[str, typer.Option(help="with commas, as: positions,head; default: all")] = "",
    seeds: Seeds = 1,
    json_file: ResultsPath = None,
    config: LogConfigName = "",
    work: Work = STUDIES,
) -> None:
    """Change one thing of Feed-SR at a time: the ablation study.

    A study that was stopped goes on; the same command in another shell shares the work.
    """
    from components.backtest.split import LogSplit
    from components.studies.ablate import choose_experiments, run

    split = LogSplit(data=data, train_before=train_before, test_through=test_through)
    experiments = choose_experiments(split, _names(parts))
    results = _results(json_file, "ablate", split)
    _tell_left(run(split, experiments, seeds, config, results, work))


@command()
def compare(
    data: Data,
    train_before: Annotated[str, typer.Option(help="first day that tuning does not train on")],
    choose_through: Annotated[str, typer.Option(help="last day that configurations are chosen on")],
    test_through: Annotated[str, typer.Option(help="last day of the test, from the day after")],
    rankers: Annotated[str, typer.Option(help="names with commas; default: all")] = "",
    trials: Annotated[int, typer.Option(min=1, help="configurations tried of each")] = 8,
    choosing_seeds: Annotated[int, typer.Option(min=1, help="of each one's best three")] = 3,
    seeds: Seeds = 5,
    freshness: Annotated[str, typer.Option(help="day, 30m or immediate")] = "day",
    json_file: ResultsPath = None,
    config: LogConfigName = "",
    work: Work = STUDIES,
) -> None:
    """Tune every ranker alike on some days; test it once on the next.

    A study that was stopped goes on; the same command in another shell shares the work.
    """
    from components.backtest.split import LogSplit
    from components.studies.compare import CompareOptions, run

    choosing = LogSplit(data=data, train_before=train_before, test_through=choose_through)
    options = CompareOptions(
        rankers=_names(rankers),
        trials=trials,
        choosing_seeds=choosing_seeds,
        seeds=seeds,
        freshness=freshness,
        config=config,
    )
    results = _results(json_file, f"compare-{freshness}", choosing)
    _tell_left(run(choosing, test_through, options, results, work))


@command()
def incremental(
    data: Data,
    first_day: Annotated[str, typer.Option(help="first day that is ranked")],
    last_day: Annotated[str, typer.Option(help="last day that is ranked")],
    stale_days: Annotated[int, typer.Option(min=1, help="age of the weights of `stale`")] = 3,
    seeds: Seeds = 1,
    json_file: ResultsPath = None,
    config: LogConfigName = "",
    work: Work = STUDIES,
) -> None:
    """Train each day cold, warm, from stale weights or not at all.

    Each way then ranks the next day.
    """
    from components.backtest.split import LogSplit
    from components.studies.incremental import run

    split = LogSplit(data=data, train_before=first_day, test_through=last_day)
    run(split, stale_days, seeds, config, _results(json_file, "incremental", split), work)


@command()
def scaling(
    data: Data,
    train_before: TrainBefore,
    test_through: TestThrough,
    seeds: Seeds = 1,
    json_file: ResultsPath = None,
    config: LogConfigName = "",
    work: Work = STUDIES,
) -> None:
    """Train Feed-SR at many sizes: AUC against training operations."""
    from components.backtest.split import LogSplit
    from components.studies.scaling import run

    split = LogSplit(data=data, train_before=train_before, test_through=test_through)
    _tell_left(run(split, seeds, config, _results(json_file, "scaling", split), work))


@command()
def results(
    folder: Annotated[Path, typer.Option(help="of the studies' results")] = Path(
        "benchmarks/results"
    ),
    pages: Annotated[str, typer.Option(help="with commas")] = "README.md,docs/results.md",
    figure: Annotated[Path, typer.Option(help="of the scaling study")] = Path(
        "docs/pictures/scaling.svg"
    ),
) -> None:
    """Render the pages' tables and the figure from the results."""
    import json

    from components.layout.files import atomic_path
    from components.studies.pages.figures import scaling_figure
    from components.studies.pages.render import render

    for page in pages.split(","):
        changed = render(Path(page), folder)
        typer.echo(f"{page}: {'rendered' if changed else 'as it was'}")
    scaled = folder / "study_scaling_simulator.json"
    if scaled.is_file():
        with atomic_path(figure) as temporary:
            temporary.write_text(scaling_figure(json.loads(scaled.read_bytes()), "click"))
        typer.echo(f"{figure}: drawn")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _results(path: Path | None, name: str, split: LogSplit) -> Path:
    from components.layout.files import check_writable

    path = path or STUDIES / f"study_{name}_{split.kind}.json"
    check_writable(path)
    return path


def _tell_left(left: int) -> None:
    if left:
        typer.echo(f"{left} are being done by another process; run again when it is through")
