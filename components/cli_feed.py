# SPDX-License-Identifier: Apache-2.0
"""Commands around the loop: bringing a log, serving, ranking, backtests, a cluster, the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.cli_options import DEFAULT_ROOT, ConfigName, Root, opened, remember

if TYPE_CHECKING:
    from components.log.sources.base import SourceCounts

feed = typer.Typer()


@feed.command()
def simulate(
    days: Annotated[int, typer.Option(min=1, help="days of log")] = 9,
    members: Annotated[int, typer.Option(min=1)] = 600,
    impressions: Annotated[int, typer.Option(min=1, help="about how many, over all days")] = 70_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    root: Root = DEFAULT_ROOT,
    config: ConfigName = "demo",
) -> None:
    """Write a seeded simulated log with known truth."""
    from components.layout.writer import writing
    from components.log.sources import SimulatorConfig
    from components.log.sources import simulate as run

    layout, name, loaded = opened(root, config)
    if loaded.spec_name != "simulator":
        raise ValueError(f"configuration {name} is for {loaded.spec_name}, not for the simulator")
    chosen = SimulatorConfig(days=days, members=members, impressions=impressions, seed=seed)
    with writing(layout.root, "feedsr simulate"):
        counts = run(layout, chosen)
        remember(layout, name)
    _tell(counts, root)


@feed.command("import")
def import_log(
    data: Annotated[Path, typer.Argument(help="folder of the log: KuaiRand, or your own Parquet")],
    root: Root = DEFAULT_ROOT,
    config: ConfigName = "",
) -> None:
    """Bring a log: KuaiRand as published, or your own Parquet."""
    from components.layout.writer import writing
    from components.log.sources import detect_source

    source = detect_source(data)
    layout, name, loaded = opened(root, config or source.spec_name or "")
    if source.spec_name not in (None, loaded.spec_name):
        raise ValueError(
            f"{data} holds {source.name}'s log and configuration {name} is for {loaded.spec_name}; "
            f"use --config {source.spec_name}"
        )
    with writing(layout.root, "feedsr import"):
        counts = source.load(data, layout, loaded.spec)
        remember(layout, name)
    _tell(counts, root)


@feed.command()
def columns(config: ConfigName = "demo") -> None:
    """List the columns that your own log must have for a configuration's feature spec."""
    from components.config import load_config

    spec = load_config(config).spec
    tables = {
        "impressions*": spec.event_schema,
        "posts": spec.post_schema,
        "members": spec.member_schema,
    }
    for name, schema in tables.items():
        typer.echo(f"{name}.parquet")
        for column in schema:
            typer.echo(f"  {column.name:<16} {column.type}{' or null' if column.nullable else ''}")


def _tell(counts: SourceCounts, root: Path) -> None:
    notes = "".join(f", {name}: {count:,}" for name, count in counts.notes.items())
    typer.echo(
        f"{counts.impressions:,} impressions of {counts.members:,} members and "
        f"{counts.posts:,} posts, {counts.days[0]} to {counts.days[-1]}, in {root}/raw{notes}"
    )


@feed.command()
def serve(
    root: Root = DEFAULT_ROOT,
    config: ConfigName = "",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="HTTP port on loopback; 0 takes a free one")
    ] = 8080,
) -> None:
    """Serve the model in production on loopback until Ctrl-C."""
    from components.loop.serve import serve as run

    layout, _, loaded = opened(root, config)
    run(layout, loaded, http_port=port)


@feed.command()
def rank(
    member: Annotated[int | None, typer.Option(help="default: the most active one")] = None,
    candidates: Annotated[str, typer.Option(help="post ids with commas; default: new posts")] = "",
    root: Root = DEFAULT_ROOT,
    config: ConfigName = "",
) -> None:
    """Rank one member's feed through the predictor and show the table."""
    from components.loop import serve as ranking

    layout, _, loaded = opened(root, config)
    posts = _post_ids(candidates)
    ranking.render_table(ranking.rank(layout, loaded, member, posts))


def _post_ids(text: str) -> list[int] | None:
    try:
        return [int(one) for one in text.split(",")] if text else None
    except ValueError as error:
        raise ValueError(f"candidates {text!r}: want post ids with commas, as 17,4,99") from error


@feed.command()
def backtest(
    data: Annotated[str, typer.Option(help="folder of the log, or sim:<impressions>")],
    train_before: Annotated[str, typer.Option(help="first day that is not trained on")],
    test_through: Annotated[str, typer.Option(help="last day that is ranked")],
    rankers: Annotated[str, typer.Option(help="names with commas")] = "feed_sr,dcnv2",
    freshness: Annotated[str, typer.Option(help="day, 30m or immediate")] = "day",
    seeds: Annotated[int, typer.Option(min=1, help="train each ranker so often")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write it there")] = None,
    config: ConfigName = "",
    work: Annotated[Path | None, typer.Option(help="folder to work in, reused")] = None,
) -> None:
    """Train each ranker before a date and rank the days after it, for any log."""
    from components.backtest.backtest import BacktestOptions
    from components.backtest.backtest import backtest as run
    from feature_repo.spec import FRESHNESS

    if freshness not in FRESHNESS:
        raise ValueError(f"freshness is {freshness!r}, want one of {', '.join(FRESHNESS)}")
    fresh = FRESHNESS[FRESHNESS.index(freshness)]
    names = tuple(name.strip() for name in rankers.split(","))
    options = BacktestOptions(rankers=names, freshness=fresh, seeds=seeds, config=config, work=work)
    run(data, train_before, test_through, options, json_file)


@feed.command()
def submit(
    day: Annotated[str, typer.Option(help="YYYY-MM-DD or yesterday")] = "yesterday",
    host: Annotated[
        str, typer.Option(envvar="FEEDSR_KFP_HOST", help="the pipeline service's address")
    ] = "http://127.0.0.1:8888",
    namespace: Annotated[str, typer.Option(envvar="FEEDSR_KFP_NAMESPACE")] = "feedsr",
    service_account: Annotated[str, typer.Option(help="runs the steps' pods")] = "feedsr-daily",
    config: ConfigName = "demo",
) -> None:
    """Submit a day's run to a Kubeflow Pipelines server."""
    from components.loop.submit import Target
    from components.loop.submit import submit as run

    target = Target(host=host, namespace=namespace, service_account=service_account)
    typer.echo(run(day, config, target))


@feed.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="a log's folder; default: simulate")] = None,
    days: Annotated[int, typer.Option(min=4, help="simulated days")] = 9,
    root: Annotated[Path | None, typer.Option(help="default: runs/demo or runs/demo-NAME")] = None,
    config: Annotated[str, typer.Option(help="for your own log; default: by the data")] = "",
) -> None:
    """Two days of the loop, cold then warm, then one feed ranked by the promoted model."""
    from components.loop.demo import demo as run

    run(data, days, root, config)
