# SPDX-License-Identifier: Apache-2.0
"""The loader: Arrow IPC shards of sequences in, packed NumPy columns out. See README.md."""

from kernels.loader.checksums import write_checksums
from kernels.loader.reference import AUXILIARY, TARGET, Packed
from kernels.loader.shards import ShardFormat, ShardInfo, inspect_shard, read_shard
from kernels.loader.stream import Loader, LoaderConfig, prefetched
from kernels.loader.targets import Decay, LossRows, loss_rows, weigh

__all__ = [
    "AUXILIARY",
    "TARGET",
    "Decay",
    "Loader",
    "LoaderConfig",
    "LossRows",
    "Packed",
    "ShardFormat",
    "ShardInfo",
    "inspect_shard",
    "loss_rows",
    "prefetched",
    "read_shard",
    "weigh",
    "write_checksums",
]
