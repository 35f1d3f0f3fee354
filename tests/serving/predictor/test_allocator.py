# SPDX-License-Identifier: Apache-2.0
"""The allocator's setting, in a process of its own: it stays for as long as the process does."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from serving.predictor import allocator

PROBE = """
import ctypes, resource
from serving.predictor.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [libc.malloc(8 << 20) for _ in range(6)]
        for block in blocks:
            ctypes.memset(block, 1, 8 << 20)
        for block in blocks[::-1]:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt")
def test_freed_blocks_are_not_given_back_to_the_kernel() -> None:
    """Six blocks of 8 MiB are 12,288 pages, which each of ten rounds would fault in anew."""
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 12_288


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
