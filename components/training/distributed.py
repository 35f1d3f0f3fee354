# SPDX-License-Identifier: Apache-2.0
"""The processes that train together: one alone, or those that torchrun started.

Reads torchrun's environment (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`), picks the device, and joins and
leaves the process group. It knows nothing of models or shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process's place among those that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks to people."""
        return self.rank == 0

    @property
    def autocast(self) -> torch.autocast:
        """bf16 where the device computes in it; on a CPU everything stays fp32."""
        cuda = self.device.type == "cuda"
        enabled = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            dist.barrier()


def this_device() -> torch.device:
    """The GPU of this process where there is one (torchrun's `LOCAL_RANK`), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def process_group() -> Iterator[Group]:
    """Joins torchrun's processes for the length of the block; alone where there is no torchrun."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = this_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    joins = world > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(rank=rank, world=world, device=device)
    finally:
        if joins:
            dist.destroy_process_group()
