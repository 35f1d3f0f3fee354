# SPDX-License-Identifier: Apache-2.0
"""What a result's numbers were made with. It knows no result."""

from __future__ import annotations

import importlib.metadata
import platform

LIBRARIES = ("feedsr", "torch", "numpy", "pyarrow", "duckdb")


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries, and the machine's kind."""
    made_with = {"python": platform.python_version(), "machine": platform.machine()}
    return made_with | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
