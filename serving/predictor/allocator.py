# SPDX-License-Identifier: Apache-2.0
"""How the C library's allocator treats freed memory, for a process that serves one model."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""`mallopt(3)`, glibc."""


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, in one arena.

    A forward's buffers are some MiB each, and would else come as fresh pages from the kernel in
    every layer.

    Returns:
        Whether there is a glibc that took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1))
    return all(mallopt(*option) == 1 for option in options)
