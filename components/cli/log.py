# SPDX-License-Identifier: Apache-2.0
"""Bringing a log: simulated, KuaiRand, or your own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.cli.options import DEFAULT_ROOT, LogConfigName, NamedConfig, Root, opened, remember

if TYPE_CHECKING:
    from components.log.sources.base import SourceCounts

log = typer.Typer()
command = partial(log.command, rich_help_panel="Log")


@command()
def simulate(
    days: Annotated[int, typer.Option(min=1, help="days of log")] = 9,
    members: Annotated[int, typer.Option(min=1, help="members of the feed")] = 600,
    impressions: Annotated[int, typer.Option(min=1, help="about how many, over all days")] = 70_000,
    seed: Annotated[int, typer.Option(min=0, help="the same log for the same seed")] = 0,
    root: Root = DEFAULT_ROOT,
    config: NamedConfig = "demo",
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


@command("import")
def import_log(
    data: Annotated[Path, typer.Argument(help="folder of the log: KuaiRand, or your own Parquet")],
    root: Root = DEFAULT_ROOT,
    config: LogConfigName = "",
) -> None:
    """Bring a log: KuaiRand as published, or your own Parquet."""
    from components.layout.paths import absolute
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
        counts = source.load(absolute(data), layout, loaded.spec)
        remember(layout, name)
    _tell(counts, root)


@command()
def columns(config: NamedConfig = "demo") -> None:
    """List the columns that a configuration wants of your own log.

    Impressions may be spread over several files, which the star says.
    """
    from components.config import load_config

    spec = load_config(config).spec
    tables = {
        "impressions*": spec.impression_schema,
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
