# SPDX-License-Identifier: Apache-2.0
"""Engines: what deals a day's work out, here one share after the other, on Spark many at once.

A step of a bucket is a pure function of what every engine hands it, so that the bytes are the same.
"""

from __future__ import annotations

from pathlib import Path

from components.log.engines.engine import Engine, LocalEngine, Rows, Step, Work
from components.log.engines.log_rows import LogRows

__all__ = ["Engine", "LocalEngine", "LogRows", "Rows", "Step", "Work", "engine_named"]


def engine_named(name: str, root: Path) -> Engine:
    """The engine of a configuration, for the run at a root.

    Raises:
        ValueError: it is not installed, or does not start.
    """
    if name == "local":
        return LocalEngine()
    from components.log.engines.spark import SparkEngine

    return SparkEngine(root)
