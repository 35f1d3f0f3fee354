# SPDX-License-Identifier: Apache-2.0
"""Three shards that the loader's tests read and never change."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.specs import KUAIRAND
from tests.shard_builders import random_lengths, write_shards


@pytest.fixture(scope="package")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """300 sequences in three files, without checksums."""
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(folder, KUAIRAND, random_lengths(300), shards=3)
