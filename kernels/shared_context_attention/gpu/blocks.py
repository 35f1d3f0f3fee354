# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def"
"""What the Triton kernels share: where a block lies, and which keys the rows of a tile see.

A row sees the keys `[0, prefix)` and `[own, last]` of its sequence; a candidate has prefix = length
and nothing of its own here. So a tile of rows visits the keys in three stretches: whole blocks that
every row sees, needing no mask; blocks up to the largest prefix; and, beyond a gap that nobody
sees, the blocks of the rows' own impressions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(2**31 - 1)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


class Heads(NamedTuple):
    """`[tokens, H, D]` of stride 1 in D: the tensor and its strides in elements."""

    data: Any
    token: int
    head: int


class Batch(NamedTuple):
    """Who sees whom: int32 offsets of queries and keys, prefix (or None), and the tiles."""

    cu_queries: Any
    cu_keys: Any
    prefix: Any
    tiles: Any


def heads(x: Any) -> Heads:
    """The tensor as kernels take it."""
    assert x.stride(-1) == 1 or not x.numel()
    return Heads(x, x.stride(0), x.stride(1))


@triton.jit
def tile_of(tiles):
    """Sequence and first row of this program's tile, last tiles first: they have most to do."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    return tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)


@triton.jit
def span(offsets, sequence):
    """Where a sequence starts, and its length."""
    start = tl.load(offsets + sequence)
    return start, tl.load(offsets + sequence + 1) - start


@triton.jit
def at(x, first, head, ROWS: tl.constexpr, D: tl.constexpr):
    """Pointers `[ROWS, D]` to rows from `first` on; offsets of a whole batch need 64 bits."""
    start = x.data + first.to(tl.int64) * x.token + head.to(tl.int64) * x.head
    return start + tl.arange(0, ROWS)[:, None] * x.token + tl.arange(0, D)[None, :]


@triton.jit
def read(x, first, head, ROWS: tl.constexpr, D: tl.constexpr, present=None):
    """Rows from `first` on, 0 where not `present`."""
    pointers = at(x, first, head, ROWS, D)
    if present is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=present[:, None], other=0.0)


@triton.jit
def write(x, first, head, present, value):
    """Rows from `first` on, where they are `present`, in the dtype of `x`."""
    pointers = at(x, first, head, value.shape[0], value.shape[1])
    tl.store(pointers, value.to(x.data.dtype.element_ty), mask=present[:, None])


@triton.jit
def dot(a, b):
    """A product in float32; the interpreter's is garbage for bfloat16, so it gets float32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def sees(prefixes, row, count, length, group: tl.constexpr, CANDIDATES: tl.constexpr):
    """`(prefix, own, last)` of rows, whose prefixes lie at `prefixes` if present are any."""
    if CANDIDATES:
        prefix = tl.zeros_like(row) + length
        own = prefix
        last = prefix - 1
    else:
        last = row + (length - count)
        own = last // group * group
        prefix = own
        if prefixes is not None:
            prefix = tl.load(prefixes + row, mask=row < count, other=0)
    return prefix, own, last


@triton.jit
def is_seen(column, prefix, own, last):
    """Which keys are seen by which rows; the arguments broadcast."""
    return (column < prefix) | ((column >= own) & (column <= last))


@triton.jit
def stretches(prefix, own, last, present, STEP: tl.constexpr):
    """The blocks that a tile visits, as `(whole, partly, partial, beyond)`.

    `whole` of them from 0 on have no mask, then `partly` have one, of which `partial` follow on the
    whole ones and the others start at key `beyond`.
    """
    whole = tl.min(tl.where(present, prefix, FAR)) // STEP
    shown = tl.cdiv(tl.max(tl.where(present, prefix, 0)), STEP)
    beyond = tl.maximum(shown, tl.min(tl.where(present, own, FAR)) // STEP) * STEP
    end = tl.max(tl.where(present, last, -1)) + 1
    partial = shown - whole
    return whole, partial + tl.cdiv(tl.maximum(end - beyond, 0), STEP), partial, beyond


@triton.jit
def block_start(block, masked: tl.constexpr, whole, partial, beyond, STEP: tl.constexpr):
    """The first key of a block."""
    start = block * STEP
    if masked:
        start = tl.where(block < partial, whole * STEP + start, beyond + start - partial * STEP)
    return tl.multiple_of(start, STEP)
