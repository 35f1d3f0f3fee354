# SPDX-License-Identifier: Apache-2.0
"""Commands that measure a log or a ranker and change neither."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.cli_options import ConfigName

study = typer.Typer()


@study.command()
def leakage(
    data: Annotated[str, typer.Option(help="folder of the log, or sim:<impressions>")],
    train_before: Annotated[str, typer.Option(help="first day that is not trained on")],
    test_through: Annotated[str, typer.Option(help="last day that is ranked")],
    sessions: Annotated[str, typer.Option(help="logged, or pause: visits of requests")] = "logged",
    ranker: Annotated[str, typer.Option(help="feed_sr or dcnv2")] = "feed_sr",
    seeds: Annotated[int, typer.Option(min=1, help="train each ranker so often")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write it there")] = None,
    config: ConfigName = "",
    work: Annotated[Path | None, typer.Option(help="folder to work in, reused")] = None,
) -> None:
    """Measure how much of a log's AUC is same-session feedback."""
    from components.leakage import LeakageOptions
    from components.leakage import leakage as run
    from components.session_cut import SESSIONS

    if sessions not in SESSIONS:
        raise ValueError(f"sessions is {sessions!r}, want one of {', '.join(SESSIONS)}")
    options = LeakageOptions(
        sessions=SESSIONS[SESSIONS.index(sessions)],
        ranker=ranker,
        seeds=seeds,
        config=config,
        work=work,
    )
    run(data, train_before, test_through, options, json_file)
