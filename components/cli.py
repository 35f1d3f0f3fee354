# SPDX-License-Identifier: Apache-2.0
"""The `feedsr` command: the loop's steps, the loop, the registry, and what surrounds them.

It parses, calls one function and prints; everything heavy is imported by the command that needs it,
so that `feedsr --help` answers at once. A user's mistake is one sentence and exit status 1 (2 for
a command line that cannot be parsed); `FEEDSR_TRACE=1` shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from components.cli_feed import feed
from components.cli_options import (
    DEFAULT_ROOT,
    ConfigName,
    Day,
    Root,
    chosen_day,
    opened,
    opened_to_write,
)
from components.cli_study import study

app = typer.Typer(
    name="feedsr",
    help="Feed-SR: the daily loop from a raw log to a ranked feed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(feed)
app.add_typer(study)


def main() -> None:
    """Runs the command line; see the module's text for how it ends."""
    # Spinning threads starve each other where cores are shared: training took 25 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except Exception as error:
        if os.environ.get("FEEDSR_TRACE") or not _is_told(error):
            raise
        from components.loop.steps import sentence

        print(f"feedsr: {sentence(error)}", file=sys.stderr)
        sys.exit(1)


def _is_told(error: Exception) -> bool:
    """Whether an error's own sentence is enough; anything else is a fault of ours to trace."""
    from components.loop.steps import USER_ERRORS, StepError

    return isinstance(error, (*USER_ERRORS, StepError))


def _step_command(name: str, about: str) -> None:
    """Adds the command of one step of the loop."""

    def run(root: Root = DEFAULT_ROOT, day: Day = "", config: ConfigName = "") -> None:
        _run_step(name, root, day, config)

    run.__doc__ = about
    app.command(name, rich_help_panel=None)(run)


def _run_step(name: str, root: Path, day: str, config: str, **arguments: str) -> None:
    from components.loop.daily import summary
    from components.loop.steps import run_step

    layout, config_name, _ = opened(root, config)
    day = chosen_day(layout, day)
    values = run_step(name, str(layout.root), day, config_name, **arguments)
    typer.echo(f"{name} {day}: {summary(name, values)}")


STEP_COMMANDS = {
    "ingest": "Check, deduplicate and sessionise the days that arrived.",
    "features": "Count popularity, activity and affinity as of each new day.",
    "histories": "Pack each member's last impressions as of each new day.",
    "materialize": "Move features and histories to Feast's online store.",
    "sequences": "Join the day's training and evaluation shards in time.",
    "evaluate": "Score the day with the new model, production and the baseline.",
    "gate": "Judge the day's model by the declared thresholds.",
    "parity": "Replay serving requests offline and compare.",
    "register": "Make the day's model an immutable version.",
    "report": "Write the day's HTML report.",
}
for _name, _about in STEP_COMMANDS.items():
    _step_command(_name, _about)


@app.command()
def train(
    ranker: Annotated[str, typer.Option(help="feed_sr or dcnv2")] = "feed_sr",
    root: Root = DEFAULT_ROOT,
    day: Day = "",
    config: ConfigName = "",
) -> None:
    """Train one ranker of the day, cold or warm; resumes what was killed."""
    if ranker not in ("feed_sr", "dcnv2"):
        raise ValueError(f"there is no ranker {ranker!r}; have feed_sr, dcnv2")
    _run_step("train", root, day, config, ranker=ranker)


@app.command()
def daily(root: Root = DEFAULT_ROOT, day: Day = "", config: ConfigName = "") -> None:
    """Run the whole loop for one day through the Kubeflow pipeline, on this machine."""
    from components.loop.daily import daily as run

    layout, name, _ = opened(root, config)
    result = run(layout, chosen_day(layout, day), name)
    typer.echo(f"{result.day}: the gate {result.verdict} the model; report: {result.report}")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="a registered version; see feedsr versions")],
    force: Annotated[bool, typer.Option(help="also one that the gate refused")] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Point production at a version."""
    from components.registry import versions

    with opened_to_write(root, "feedsr promote") as layout:
        versions.promote(layout, version, force=force)
    typer.echo(f"{version} is in production")


@app.command()
def rollback(root: Root = DEFAULT_ROOT) -> None:
    """Point production at the version before."""
    from components.registry import versions

    with opened_to_write(root, "feedsr rollback") as layout:
        version = versions.rollback(layout)
    typer.echo(f"{version} is in production")


@app.command()
def versions(
    prune: Annotated[
        int | None,
        typer.Option(min=1, help="first delete all but so many of the newest"),
    ] = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """List the registered versions; * marks the one in production, which is never deleted."""
    from components.layout.paths import Layout
    from components.registry import versions

    layout = Layout.at(root)
    if prune and layout.registry.is_dir():
        with opened_to_write(root, "feedsr versions --prune"):
            gone = versions.prune(layout, prune)
        for version in gone:
            typer.echo(f"{version} is deleted")
    production = versions.current(layout)
    found = versions.versions(layout)
    if not found:
        raise ValueError(f"{layout.registry} has no version yet; run feedsr daily")
    for version in found:
        record = versions.version_record(layout, version)
        verdict = "passed" if record["gate"]["passed"] else "refused"
        typer.echo(f"{'*' if version == production else ' '} {version}  gate: {verdict}")


@app.command()
def pipeline(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("build/pipeline.yaml"),
) -> None:
    """Compile the daily loop to YAML for a Kubeflow Pipelines server."""
    from components.loop.pipeline import compile_pipeline

    compile_pipeline(out)
    typer.echo(str(out))
