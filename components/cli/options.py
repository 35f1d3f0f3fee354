# SPDX-License-Identifier: Apache-2.0
"""Options that the commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from components.config import DailyConfig
    from components.layout.paths import Layout

Root = Annotated[
    Path, typer.Option("--root", envvar="FEEDSR_ROOT", help="folder of the run's files")
]
Day = Annotated[str, typer.Option("--day", help="as-of day, YYYY-MM-DD; default: the log's last")]


def _config(default: str) -> Any:
    about = f"demo, kuairand or a JSON file{default}"
    return typer.Option("--config", envvar="FEEDSR_CONFIG", help=about)


ConfigName = Annotated[str, _config("; default: what the root was made with")]
LogConfigName = Annotated[str, _config("; default: by the log")]
NamedConfig = Annotated[str, _config("")]
"""Where there is no root that remembers one."""
DEFAULT_ROOT = Path("runs/demo")


def opened(root: Path, config: str) -> tuple[Layout, str, DailyConfig]:
    """The layout, the configuration's name and the configuration of a command.

    Without a name it is the one that the root was made with, else the demo's.

    Raises:
        ValueError: there is no such configuration, it is wrong, or the root's note is damaged.
    """
    from components.config import load_config
    from components.layout.paths import Layout

    layout = Layout.at(root)
    name = config or _kept(layout) or "demo"
    return layout, name, load_config(name)


@contextmanager
def opened_to_write(root: Path, command: str) -> Iterator[Layout]:
    """The layout of a root that is there, with its lock held; ValueError if another writes."""
    from components.layout.paths import Layout
    from components.layout.writer import writing

    layout = Layout.at(root)
    with writing(layout.root, command) if layout.root.is_dir() else nullcontext():
        yield layout


def _kept(layout: Layout) -> str:
    """The configuration's name that `remember` wrote, or nothing."""
    from components.registry.note import RootNote

    try:
        note = RootNote.in_root(layout)
    except ValueError as error:
        raise ValueError(
            f"{RootNote.path(layout)} does not name a configuration: it is damaged; say --config"
        ) from error
    return note.config if note else ""


def remember(layout: Layout, config: str) -> None:
    """Keeps the configuration's name with the root, so that later commands need not say it."""
    from components.config import config_name
    from components.registry.note import RootNote

    RootNote(config=config_name(config)).write(RootNote.path(layout))


def chosen_day(layout: Layout, day: str) -> str:
    """The day that was asked for, or the log's last; ValueError if there is no log."""
    days = layout.raw_days()
    if not day and not days:
        raise ValueError(f"there is no log under {layout.root}; run feedsr simulate or import")
    return day or days[-1]
