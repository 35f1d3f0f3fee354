# SPDX-License-Identifier: Apache-2.0
"""A result says what it was made with, and what was missing."""

import platform

import numpy as np
import pytest

from components.backtest import provenance


def test_versions_are_those_that_are_installed() -> None:
    versions = provenance.versions()
    assert versions["numpy"] == np.__version__
    assert versions["python"] == platform.python_version()
    assert set(versions) == {"python", "machine", *provenance.LIBRARIES}


def test_a_library_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", ("numpy", "no-such-library"))
    assert provenance.versions()["no-such-library"] == "not installed"
