# SPDX-License-Identifier: Apache-2.0
"""Feast opens as it always did, with what costs its import the most left out and put back."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = """
import sys, typeguard
checked = typeguard.typechecked
{before}
from feature_repo.opening import load_feast
load_feast()
from feast import Entity
print("torch" in sys.modules, typeguard.typechecked is checked, hasattr(Entity, "__init__"))
{after}
"""


def _printed(before: str, after: str) -> list[str]:
    code = LOADED.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.split()


def test_feast_brings_no_torch_and_leaves_none_out_afterwards() -> None:
    after = "import torch; print(torch.ones(2).sum().item())"
    assert _printed("", after) == ["False", "True", "True", "2.0"]


def test_torch_that_is_loaded_stays() -> None:
    after = "from feast.torch_wrapper import get_torch; print(get_torch() is torch)"
    assert _printed("import torch", after) == ["True", "True", "True", "True"]


def test_classes_are_left_as_they_were_written() -> None:
    """What was rebuilt with checks imports typeguard in its functions; what we load does not."""
    names = "print('typeguard' in Entity.__init__.__code__.co_names)"
    assert _printed("import feast", names)[-1] == "True"
    assert _printed("", names)[-1] == "False"


@pytest.mark.parametrize("loaded", ["", "import feast"])
def test_feast_that_is_loaded_is_loaded_once(loaded: str) -> None:
    after = "import feast; before = feast; load_feast(); import feast; print(feast is before)"
    assert _printed(loaded, after)[-1] == "True"
