# SPDX-License-Identifier: Apache-2.0
"""Features to vectors: one encoder for each kind that the spec knows, and one that joins them.

Knows the spec's kinds; does not know tokens, sequences or tasks. Every encoder is total: an
unknown id, an unknown code, NaN and an all-zero vector each have an embedding of their own.

Shape suffixes: R rows; F features of one bank; W the joined width; E width of a dense vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn

from feature_repo.kinds import Categorical, Embedding, Feature, HashedId, Numeric

EMBEDDING_STD = 0.05
"""Embeddings start near zero, so that a row that training never saw says next to nothing."""
NUMERIC_RANGE = 5.0
"""Standardised values are clipped here: one extreme counter must not drown a cross layer."""
DENSE_EPSILON = 1e-6
"""Added to the mean square of a dense vector; below it the vector fades to missing."""
MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""SplitMix64's multipliers as signed 64-bit integers."""
FIT_ROWS = 1_000_000
"""Of a sample with n times as many rows or more, statistics are taken of every n-th row."""


def hash_ids(ids: Tensor, buckets: int) -> Tensor:
    """Bucket of each id, int64 in [0, buckets).

    Id 0, the unknown one, has bucket 0 for itself where there are two or more. The finaliser of
    SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014
    (variant 13).
    """
    x = ids.to(torch.int64)
    x = (x ^ _shift(x, 30)) * MIX[0]
    x = (x ^ _shift(x, 27)) * MIX[1]
    x = _shift(x ^ _shift(x, 31), 1)
    return torch.where(ids == 0, 0, 1 + x % (buckets - 1)) if buckets > 1 else torch.zeros_like(x)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def known_codes(codes: Tensor, cardinality: int) -> Tensor:
    """Codes as int64 with everything outside [0, cardinality), and NaN, at row `cardinality`."""
    if codes.is_floating_point():
        codes = codes.nan_to_num(-1.0)
    codes = codes.to(torch.int64)
    return torch.where((codes >= 0) & (codes < cardinality), codes, cardinality)


class CategoricalEncoder(nn.Module):
    """A code to its embedding; the last row is for unknown ones."""

    def __init__(self, kind: Categorical) -> None:
        super().__init__()
        self.cardinality, self.width = kind.cardinality, kind.dim
        self.table = nn.Embedding(kind.cardinality + 1, kind.dim)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def forward(self, codes_R: Tensor) -> Tensor:
        """`[R]` codes, int or float with NaN, to `[R, dim]`."""
        return self.table(known_codes(codes_R, self.cardinality))


class DenseEncoder(nn.Module):
    """A dense vector's direction through a linear layer, beside an indicator that it is missing.

    Vectors come at any length (content models often give unit vectors, whose entries are small);
    at a root mean square of 1 they stand beside standardised numerics and are not drowned by them.
    """

    def __init__(self, kind: Embedding) -> None:
        super().__init__()
        self.width = min(kind.dim, 32)
        self.linear = nn.Linear(kind.dim + 1, self.width)

    def forward(self, vector_RE: Tensor) -> Tensor:
        """`[R, E]` of any float type to `[R, width]`; with NaN, or all zero, it is missing."""
        vector = vector_RE.to(self.linear.weight.dtype)
        finite = vector.isfinite().all(-1, keepdim=True)
        vector = torch.where(finite, vector, 0.0)
        missing = (vector == 0).all(-1, keepdim=True)
        direction = vector * torch.rsqrt(vector.square().mean(-1, keepdim=True) + DENSE_EPSILON)
        return self.linear(torch.cat([direction, missing.to(vector.dtype)], -1))


class NumericBank(nn.Module):
    """Numeric features of one size together: standardised value and quantile-bin embedding of each.

    The statistics are buffers, set once by `fit` on a cold start and kept by every warm one;
    before that they are a standard normal's.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        kinds = [f.kind for f in features if isinstance(f.kind, Numeric)]
        self.names = [f.name for f in features]
        self.bins, self.dim = kinds[0].bins, kinds[0].dim
        count = len(kinds)
        self.table = nn.Embedding(count * (self.bins + 1), self.dim)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        normal = torch.tensor([NormalDist().inv_cdf(i / self.bins) for i in range(1, self.bins)])
        logs = torch.tensor([k.transform == "log1p" for k in kinds])
        self.mean_F: Tensor
        self.std_F: Tensor
        self.boundaries_FB: Tensor
        self.log_F: Tensor
        self.offset_F: Tensor
        self.register_buffer("mean_F", torch.zeros(count))
        self.register_buffer("std_F", torch.ones(count))
        self.register_buffer("boundaries_FB", normal.repeat(count, 1))
        self.register_buffer("log_F", logs, persistent=False)
        self.register_buffer("offset_F", torch.arange(count) * (self.bins + 1), persistent=False)

    @property
    def width(self) -> int:
        """Width of the encoding: a value and `dim` numbers of its bin for each feature."""
        return len(self.names) * (1 + self.dim)

    def _transform(self, value_FR: Tensor) -> Tensor:
        value = value_FR.to(self.mean_F.dtype)
        return torch.where(self.log_F[:, None], value.sign() * value.abs().log1p(), value)

    @torch.no_grad()
    def fit(self, value_FR: Tensor) -> None:
        """Sets mean, deviation and bin boundaries from the finite values of a sample.

        A feature without a single finite value keeps the statistics it has.
        """
        levels = torch.arange(1, self.bins, device=value_FR.device) / self.bins
        step = max(value_FR.shape[1] // FIT_ROWS, 1)
        for i, row in enumerate(self._transform(value_FR[:, ::step])):
            row = row[row.isfinite()].double()
            if row.numel() == 0:
                continue
            self.mean_F[i] = row.mean()
            std = row.std(correction=0)
            self.std_F[i] = std if std > 1e-6 else 1.0
            self.boundaries_FB[i] = torch.quantile(row, levels.double())

    def _bins(self, value_FR: Tensor) -> Tensor:
        """The bin of each value: halfway among the boundaries that equal it.

        Counters are often zero for most rows, so that many boundaries are one value: it must not
        share a bin with everything above it, nor with everything below.
        """
        below = torch.searchsorted(self.boundaries_FB, value_FR, right=False)
        return (below + torch.searchsorted(self.boundaries_FB, value_FR, right=True)) // 2

    def forward(self, value_FR: Tensor) -> Tensor:
        """`[F, R]` raw values to `[R, width]`; values that are not finite are missing."""
        value = self._transform(value_FR)
        known = value.isfinite()
        value = torch.where(known, value, 0.0)
        bins = torch.where(known, self._bins(value), self.bins) + self.offset_F[:, None]
        standard = (value - self.mean_F[:, None]) / self.std_F[:, None]
        standard = torch.where(known, standard.clamp(-NUMERIC_RANGE, NUMERIC_RANGE), 0.0)
        return torch.cat([standard.T, self.table(bins.T).flatten(1)], -1)


class FeatureEncoder(nn.Module):
    """The given features joined into one vector a row; ids that name the same table share it.

    `width` is W, the joined width.

    Raises:
        ValueError: two features that share a table disagree on its size (the spec refuses that
            already).
    """

    def __init__(self, features: Sequence[Feature], *, embedding_dropout: float = 0.0) -> None:
        super().__init__()
        self.ids = [(f.name, f.kind) for f in features if isinstance(f.kind, HashedId)]
        self.tables = nn.ModuleDict()
        for _, kind in self.ids:
            if kind.table not in self.tables:
                table = nn.Embedding(kind.buckets, kind.dim)
                nn.init.normal_(table.weight, std=EMBEDDING_STD)
                self.tables[kind.table] = table
        single: dict[str, CategoricalEncoder | DenseEncoder] = {}
        for f in features:
            if isinstance(f.kind, Categorical):
                single[f.name] = CategoricalEncoder(f.kind)
            elif isinstance(f.kind, Embedding):
                single[f.name] = DenseEncoder(f.kind)
        self.single = nn.ModuleDict(single)
        sizes: dict[tuple[int, int], list[Feature]] = {}
        for f in features:
            if isinstance(f.kind, Numeric):
                sizes.setdefault((f.kind.bins, f.kind.dim), []).append(f)
        banks = [NumericBank(group) for group in sizes.values()]
        self.banks = nn.ModuleList(banks)
        self.bank_names = [bank.names for bank in banks]
        self.dropout = nn.Dropout(embedding_dropout)
        widths = [kind.dim for _, kind in self.ids]
        widths += [encoder.width for encoder in (*single.values(), *banks)]
        self.width = sum(widths)

    def forward(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Columns by feature name, `[R]` or `[R, E]`, to `[R, W]`."""
        parts = []
        if self.ids:
            embedded = [
                self.tables[kind.table](hash_ids(columns[name], kind.buckets))
                for name, kind in self.ids
            ]
            parts.append(self.dropout(torch.cat(embedded, -1)))
        parts += [encoder(columns[name]) for name, encoder in self.single.items()]
        for names, bank in zip(self.bank_names, self.banks, strict=True):
            parts.append(bank(torch.stack([columns[name] for name in names])))
        return torch.cat(parts, -1)
