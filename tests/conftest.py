# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fast import durations

# Tests are many small operations: a second thread costs more than it brings. Set before torch is
# imported, so that the processes that tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Without a GPU, Triton's kernels are interpreted: it reads this when it is first imported."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process ends with one while the others are idle."""
    seconds = durations()
    items.sort(key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0.0))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Also where OMP_NUM_THREADS says otherwise: what is compared to the bit wants one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A simulated run with an online store and a promoted model (tests/serving_builders.py)."""
    from tests.serving_builders import build_small_run

    return build_small_run(tmp_path_factory.mktemp("run") / "root")


@pytest.fixture(scope="session")
def servers(small_run) -> Iterator:  # type: ignore[no-untyped-def]
    """A predictor and a transformer of the small run as processes on loopback."""
    from serving.launch import launch

    with launch(small_run.serving()) as pair:
        yield pair
