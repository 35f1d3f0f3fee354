# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics: one update of all tasks, against NumPy's, torchmetrics' and an exact AUC.

    python -m benchmarks.streaming_metrics [--threads 2] [--save] [--toy]

Each variant takes the same batch of logits and labels of 7 tasks:
  native                   StreamingMetrics.update, compiled (where it is)
  numpy                    its portable half
  torchmetrics             BinaryAUROC(thresholds=200).update, one a task
  torchmetrics_multilabel  MultilabelAUROC(7, thresholds=200).update, all in one
  torchmetrics_exact       BinaryAUROC().update and compute of that batch, one a task
  exact                    the specification, `exact_auc`, one a task
  read                     StreamingMetrics.auc: what reading costs, whenever one reads
Errors are against the exact AUC after ten batches. Ranks count apart and are then merged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import BinaryAUROC, MultilabelAUROC

from benchmarks._record import Result, finish, medians_ms, over, parser, start
from kernels._native import native
from kernels.streaming_metrics import StreamingMetrics, exact_auc

RATES = (0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""The tasks' base rates."""

BATCHES = 10
THRESHOLDS = 200

Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def batches(rows: int) -> list[Batch]:
    """Logits and labels `[rows, K]` float32, the labels drawn from the logits."""
    rng = np.random.default_rng(0)
    prior = np.log(RATES) - np.log1p(-np.array(RATES))
    logits = (prior + rng.normal(size=(BATCHES, rows, len(RATES)))).astype(np.float32)
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return list(zip(logits, labels, strict=True))


def tensors(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Probabilities and integer labels of each task, as torchmetrics takes them."""
    logits, labels = (torch.from_numpy(x) for x in batch)
    return list(zip(logits.sigmoid().T.contiguous(), labels.int().T.contiguous(), strict=True))


def torchmetrics_update(batch: Batch) -> Callable[[], object]:
    """One binned update a task; what it is given is prepared before."""
    prepared = tensors(batch)
    peers = [BinaryAUROC(thresholds=THRESHOLDS, validate_args=False) for _ in prepared]

    def update() -> None:
        for peer, task in zip(peers, prepared, strict=True):
            peer.update(*task)

    return update


def torchmetrics_multilabel(batch: Batch) -> Callable[[], object]:
    """One binned update of all tasks."""
    scores, labels = (torch.stack(columns, 1) for columns in zip(*tensors(batch), strict=True))
    peer = MultilabelAUROC(len(RATES), thresholds=THRESHOLDS, validate_args=False)
    return lambda: peer.update(scores, labels)


def torchmetrics_exact(batch: Batch) -> Callable[[], object]:
    """The exact AUC of the batch, a task at a time."""
    prepared = tensors(batch)
    peer = BinaryAUROC(validate_args=False)
    return lambda: [peer(*task) for task in prepared]


def exact(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The specification's AUC of each task."""
    return np.array([exact_auc(logits[:, k], labels[:, k]) for k in range(len(RATES))])


def errors(given: list[Batch]) -> dict[str, Any]:
    """How far from exact the streamed and the binned AUC are, and whether merged ranks agree."""
    want = exact(*(np.concatenate(parts) for parts in zip(*given, strict=True)))
    whole, ranks = StreamingMetrics(len(RATES)), [StreamingMetrics(len(RATES)) for _ in range(2)]
    binned = [BinaryAUROC(thresholds=THRESHOLDS) for _ in RATES]
    for i, batch in enumerate(given):
        whole.update(*batch)
        ranks[i % 2].update(*batch)
        for peer, task in zip(binned, tensors(batch), strict=True):
            peer.update(*task)
    ranks[0].merge(ranks[1])
    error = np.abs(whole.auc() - want)
    torchmetrics = np.abs(np.array([float(peer.compute()) for peer in binned]) - want)
    return {
        "largest_error": float(error.max()),
        "error_by_base_rate": dict(zip(map(str, RATES), error.tolist(), strict=True)),
        "torchmetrics_largest_error": float(torchmetrics.max()),
        "two_merged_ranks_equal_one": bool((ranks[0].counts == whole.counts).all()),
    }


def measure(rows: int, repeats: int) -> Result:
    """One batch's update by each variant, and the error over ten."""
    given = batches(rows)
    batch, (module, reason) = given[0], native("streaming_metrics")
    compiled = module is not None
    timed, portable = StreamingMetrics(len(RATES)), StreamingMetrics(len(RATES))
    variants: dict[str, Callable[[], object]] = {
        "numpy": lambda: portable._update_in_numpy(*batch),
        "torchmetrics": torchmetrics_update(batch),
        "torchmetrics_multilabel": torchmetrics_multilabel(batch),
        "torchmetrics_exact": torchmetrics_exact(batch),
        "exact": lambda: exact(*batch),
        "read": timed.auc,
    }
    if compiled:
        variants = {"native": lambda: timed.update(*batch)} | variants
    ms = medians_ms(variants, repeats)
    update = "native" if compiled else "numpy"
    pairs = {
        f"torchmetrics_over_{update}": ("torchmetrics", update),
        f"torchmetrics_multilabel_over_{update}": ("torchmetrics_multilabel", update),
        f"torchmetrics_exact_over_{update}": ("torchmetrics_exact", update),
        f"exact_over_{update}": ("exact", update),
        "numpy_over_native": ("numpy", "native"),
    }
    facts = errors(given) | ({} if compiled else {"native": f"not run: {reason}"})
    setting = {"rows": rows, "tasks": len(RATES), "buckets": timed.buckets}
    return Result(
        setting=setting | {"torchmetrics_thresholds": THRESHOLDS, "repeats": repeats},
        median_ms=ms,
        ratios=over(ms, pairs),
        facts=facts,
    )


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = start(parser(__doc__))
    result = measure(*((64, 2) if arguments.toy else (8192, 51)))
    print(result)
    peers = ["torchmetrics"]
    finish(
        "streaming_metrics", [result], threads=arguments.threads, save=arguments.save, peers=peers
    )


if __name__ == "__main__":
    main()
