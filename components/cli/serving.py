# SPDX-License-Identifier: Apache-2.0
"""Serving on loopback, and ranking one feed through it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from components.cli.options import DEFAULT_ROOT, ConfigName, Root, opened

serving = typer.Typer()
command = partial(serving.command, rich_help_panel="Serving")


@command()
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


@command()
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
        return [int(post) for post in text.split(",")] if text else None
    except ValueError as error:
        raise ValueError(f"candidates {text!r}: want post ids with commas, as 17,4,99") from error
