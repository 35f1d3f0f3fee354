# SPDX-License-Identifier: Apache-2.0
"""Damage to bytes: flipped, overwritten with extreme numbers, cut, spliced."""

from __future__ import annotations

import random
from collections.abc import Iterator

EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 2**62, -(2**63))


def mutations(data: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """`count` damaged versions of `data`, each by one to three changes."""
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            _damage(damaged, rng)
        yield bytes(damaged)


def _damage(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(max(len(data), 1))
    kind = rng.randrange(4)
    if kind == 0 and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        at -= at % 8
        data[at : at + 8] = rng.choice(EXTREMES).to_bytes(8, "little", signed=True)
    elif kind == 2:
        del data[at : at + rng.choice([1, 8, len(data)])]
    else:
        other = rng.randrange(max(len(data), 1))
        data[at : at + 16] = data[other : other + 16]
