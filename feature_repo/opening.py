# SPDX-License-Identifier: Apache-2.0
"""Opens a rendered Feast repository, with Feast loaded in seconds fewer.

Feast rebuilds its classes with type checks when it is imported, through a library that leaves them
alone in an optimised Python, and it imports torch for readers that want tensors. That is most of
its start. Definitions and calls of ours are checked by tests and by mypy instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def open_repository(folder: Path) -> Any:
    """The `feast.FeatureStore` of a folder with a `feature_store.yaml`."""
    load_feast()
    from feast import FeatureStore

    return FeatureStore(repo_path=str(folder))


def load_feast() -> None:
    """Imports Feast once, without run-time type checks and without bringing torch."""
    if "feast" in sys.modules:
        return
    with _unchecked(), _without("torch"):
        import feast  # noqa: F401


@contextmanager
def _unchecked() -> Iterator[None]:
    """Leaves classes that are decorated with `typeguard.typechecked` as they were written."""
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = _as_written
    try:
        yield
    finally:
        typeguard.typechecked = checked


def _as_written(target: Any = None, **options: Any) -> Any:
    return _as_written if target is None else target


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Makes a module that is not loaded yet one that cannot be imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
