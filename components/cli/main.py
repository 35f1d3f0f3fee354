# SPDX-License-Identifier: Apache-2.0
"""The `feedsr` command: its groups of commands, and how it ends.

A command parses, calls one function and prints; everything heavy is imported by the command that
needs it, so that `feedsr --help` answers at once. A user's mistake is one sentence and exit status
1 (2 for a command line that cannot be parsed); `FEEDSR_TRACE=1` shows the traceback instead.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from components.cli.log import log
from components.cli.loop import loop
from components.cli.registry import registry
from components.cli.serving import serving
from components.cli.studies import studies


class Grouped(TyperGroup):
    """Lists the commands of each group under its name, in plain text."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands (`click.Group.format_commands`)."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = getattr(command, "rich_help_panel", None) or "Commands"
            groups.setdefault(group, []).append((name, command.get_short_help_str(100)))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


app = typer.Typer(
    name="feedsr",
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (loop, log, serving, registry, studies):
    app.add_typer(commands)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"feedsr {importlib.metadata.version('feedsr')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback()
def feedsr(version: Version = False) -> None:
    """Feed-SR: the daily loop from a raw log to a ranked feed.

    Begin with feedsr demo; feedsr COMMAND --help says what a command takes.
    """


def main() -> None:
    """Runs the command line; see the module's text for how it ends."""
    # Spinning threads starve each other where cores are shared: training took 25 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="feedsr")
    except Exception as error:
        if os.environ.get("FEEDSR_TRACE") or not _is_told(error):
            raise
        from components.loop.errors import sentence

        print(f"feedsr: {sentence(error)}", file=sys.stderr)
        sys.exit(1)


def _is_told(error: Exception) -> bool:
    """Whether an error's own sentence is enough; anything else is a fault of ours to trace."""
    from components.loop.errors import USER_ERRORS, StepError

    return isinstance(error, (*USER_ERRORS, StepError))
