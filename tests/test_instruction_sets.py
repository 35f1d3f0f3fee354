# SPDX-License-Identifier: Apache-2.0
"""A few tests under the instruction sets that a machine can pretend to have; `make test-isa` runs
them all.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernels._native import native
from tests.instruction_sets import ROOT, SETTINGS, lacking, pytest_under

FEW = [
    "tests/kernels/shared_context_attention/test_a_plan_lives_until_the_backward.py",
    "tests/model/layers/test_block.py",
    "tests/serving/transformer/test_utility.py",
]


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512", "cpp_avx512_emulated"])
def test_a_few_hold_under(name: str) -> None:
    setting = SETTINGS[name]
    absent = lacking(setting)
    if absent:
        pytest.skip(f"the processor has no {', '.join(sorted(absent))}; the other sets are run")
    if name.startswith("cpp") and native("shared_context_attention")[0] is None:
        pytest.skip("there is no C++ here; the portable split is covered by the others")
    done = pytest_under(setting, FEW)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]


SAYS = """
import numpy, torch
from kernels._native import native
from kernels.shared_context_attention import choose
print(torch.backends.cpu.get_cpu_capability(), native("loader")[0] is None,
      choose("cpu", torch.float32, 64))
"""


def test_a_setting_is_what_the_libraries_see() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        cwd=ROOT,
        env=dict(SETTINGS["baseline"].variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["DEFAULT", "True", "portable"]


def test_a_setting_that_fails_is_told_and_one_that_is_unknown_refused() -> None:
    command = [sys.executable, "-m", "tests.instruction_sets"]
    nothing = [*command, "native_off", "--", "tests/no_such_test.py"]
    done = subprocess.run(nothing, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "file or directory not found: tests/no_such_test.py" in done.stdout
    done = subprocess.run([*command, "sse9"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("'sse9' is no setting, want some of: baseline, avx2, ")
