# SPDX-License-Identifier: Apache-2.0
"""How many bytes of tensors are alive at once: what a declared figure of memory is held against."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts storages from the operation that makes them until nobody holds them.

    Attributes:
        peak: the most bytes that were alive after an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        self.peak = max(self.peak, sum(self._bytes.values()))
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = storage.nbytes()
            weakref.finalize(storage, self._bytes.pop, key, None)
