# SPDX-License-Identifier: Apache-2.0
"""The daily loop: its steps one by one, a day, the pipeline, a cluster, the demo."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from components.cli.options import (
    DEFAULT_ROOT,
    ConfigName,
    Day,
    NamedConfig,
    Root,
    chosen_day,
    opened,
    opened_to_write,
)

loop = typer.Typer()
command = partial(loop.command, rich_help_panel="Daily loop")


@command()
def demo(
    data: Annotated[Path | None, typer.Option(help="a log's folder; default: simulate")] = None,
    days: Annotated[int, typer.Option(min=4, help="simulated days")] = 9,
    root: Annotated[Path | None, typer.Option(help="default: runs/demo or runs/demo-NAME")] = None,
    config: Annotated[str, typer.Option(help="for your own log; default: by the data")] = "",
) -> None:
    """Run two days of the loop, cold then warm, and rank one feed.

    It begins with a simulated log, or with yours. A demo that was stopped goes on.
    """
    from components.loop.demo import demo as run

    run(data, days, root, config)


@command()
def daily(root: Root = DEFAULT_ROOT, day: Day = "", config: ConfigName = "") -> None:
    """Run the whole loop for one day, on this machine.

    It is the Kubeflow pipeline that a cluster runs, by Kubeflow's local runner.
    """
    from components.loop.daily import daily as run

    layout, name, _ = opened(root, config)
    result = run(layout, chosen_day(layout, day), name)
    typer.echo(f"{result.day}: the gate {result.verdict} the model; report: {result.report}")


def _step_command(name: str, about: str) -> None:
    """Adds the command of one step of the loop."""

    def run(root: Root = DEFAULT_ROOT, day: Day = "", config: ConfigName = "") -> None:
        _run_step(name, root, day, config)

    run.__doc__ = about
    command(name)(run)


def _run_step(name: str, root: Path, day: str, config: str, **arguments: str) -> None:
    from components.loop.daily import summary
    from components.loop.steps import run_step

    layout, config_name, _ = opened(root, config)
    day = chosen_day(layout, day)
    values = run_step(name, str(layout.root), day, config_name, **arguments)
    typer.echo(f"{name} {day}: {summary(name, values)}")


BEFORE_TRAINING = {
    "ingest": "Check, deduplicate and sessionise the days that arrived.",
    "features": "Count popularity, activity and affinity as of each new day.",
    "histories": "Pack each member's last impressions as of each new day.",
    "materialize": "Move features and histories to Feast's online store.",
    "sequences": "Join the day's training and evaluation shards in time.",
}
AFTER_TRAINING = {
    "evaluate": "Score the day with the new model, production and the baseline.",
    "gate": "Judge the day's model by the declared thresholds.",
    "parity": "Replay serving requests offline and compare.",
    "register": "Make the day's model an immutable version.",
    "report": "Write the day's HTML report.",
}
for _name, _about in BEFORE_TRAINING.items():
    _step_command(_name, _about)


@command()
def train(
    ranker: Annotated[str, typer.Option(help="feed_sr or dcnv2")] = "feed_sr",
    root: Root = DEFAULT_ROOT,
    day: Day = "",
    config: ConfigName = "",
) -> None:
    """Train one ranker of the day, cold or warm.

    A training that was killed goes on where it stopped.
    """
    if ranker not in ("feed_sr", "dcnv2"):
        raise ValueError(f"there is no ranker {ranker!r}; have feed_sr, dcnv2")
    _run_step("train", root, day, config, ranker=ranker)


for _name, _about in AFTER_TRAINING.items():
    _step_command(_name, _about)


@command()
def prune(
    keep_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="days of the log, back from its last")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    root: Root = DEFAULT_ROOT,
    config: ConfigName = "",
) -> None:
    """Remove what is older: features, shards, models and requests.

    The log, versions and what a later day needs stay.
    """
    from components.loop.prune import prune as run
    from components.loop.prune import table

    layout, _, loaded = opened(root, config)
    held = nullcontext() if dry_run else opened_to_write(root, "feedsr prune")
    with held:
        pruned = run(layout, loaded, keep_days, dry_run=dry_run)
    typer.echo(table(pruned, "would go" if dry_run else "gone"))


@command()
def pipeline(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("build/pipeline.yaml"),
) -> None:
    """Compile the daily loop to YAML for a Kubeflow Pipelines server."""
    from components.loop.pipeline import compile_pipeline

    compile_pipeline(out)
    typer.echo(str(out))


@command()
def submit(
    day: Annotated[str, typer.Option(help="YYYY-MM-DD or yesterday")] = "yesterday",
    host: Annotated[
        str, typer.Option(envvar="FEEDSR_KFP_HOST", help="the pipeline service's address")
    ] = "http://127.0.0.1:8888",
    namespace: Annotated[
        str, typer.Option(envvar="FEEDSR_KFP_NAMESPACE", help="where the pods run")
    ] = "feedsr",
    service_account: Annotated[str, typer.Option(help="runs the steps' pods")] = "feedsr-daily",
    config: NamedConfig = "demo",
) -> None:
    """Submit a day's run to a Kubeflow Pipelines server."""
    from components.loop.submit import Target
    from components.loop.submit import submit as run

    target = Target(host=host, namespace=namespace, service_account=service_account)
    typer.echo(run(day, config, target))
