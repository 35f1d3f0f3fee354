# SPDX-License-Identifier: Apache-2.0
"""The registry: which versions there are, and which one serves."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from components.cli.options import DEFAULT_ROOT, Root, opened_to_write

registry = typer.Typer()
command = partial(registry.command, rich_help_panel="Registry")


@command()
def versions(
    prune: Annotated[
        int | None,
        typer.Option(min=1, help="first delete all but so many of the newest"),
    ] = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """List the registered versions; * marks the one in production.

    Pruning never deletes the one in production.
    """
    from components.layout.paths import Layout
    from components.registry import versions

    layout = Layout.at(root)
    if prune and layout.registry.is_dir():
        with opened_to_write(root, "feedsr versions --prune"):
            gone = versions.prune(layout, prune)
        for version in gone:
            typer.echo(f"{version} is deleted")
    production = versions.current(layout)
    registered = versions.versions(layout)
    if not registered:
        raise ValueError(f"{layout.registry} has no version yet; run feedsr daily")
    for version in registered:
        record = versions.version_record(layout, version)
        verdict = "passed" if record.gate.passed else "refused"
        typer.echo(f"{'*' if version == production else ' '} {version}  gate: {verdict}")


@command()
def promote(
    version: Annotated[str, typer.Argument(help="a registered version; see feedsr versions")],
    force: Annotated[bool, typer.Option("--force", help="also one that the gate refused")] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Point production at a version."""
    from components.registry import versions

    with opened_to_write(root, "feedsr promote") as layout:
        versions.promote(layout, version, force=force)
    typer.echo(f"{version} is in production")


@command()
def rollback(root: Root = DEFAULT_ROOT) -> None:
    """Point production at the version before."""
    from components.registry import versions

    with opened_to_write(root, "feedsr rollback") as layout:
        version = versions.rollback(layout)
    typer.echo(f"{version} is in production")
