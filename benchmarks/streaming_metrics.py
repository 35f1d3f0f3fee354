# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics on this machine's CPU: one update against an exact AUC of the same batch.

    python benchmarks/streaming_metrics.py [--save] [--toy]

Variants are timed in turns in one process; medians of wall time. *error* is the
difference of the streamed from the exact AUC of each task, after ten batches; tasks by base rate.
"""

from __future__ import annotations

import numpy as np
from _record import finish, medians_ms, parser

from kernels.streaming_metrics import StreamingMetrics, exact_auc

RATES = (0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


def measure(rows: int, repeats: int) -> dict[str, object]:
    """Milliseconds an update, and the AUC's error."""
    rng = np.random.default_rng(0)
    prior = np.log(RATES) - np.log1p(-np.array(RATES))
    logits = (prior + rng.normal(size=(10 * rows, len(RATES)))).astype(np.float32)
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    metrics, timed = StreamingMetrics(len(RATES)), StreamingMetrics(len(RATES))
    metrics.update(logits, labels)
    exact = np.array([exact_auc(logits[:, k], labels[:, k]) for k in range(len(RATES))])
    ms = medians_ms(
        {
            "update": lambda: timed.update(logits[:rows], labels[:rows]),
            "exact_auc": lambda: [
                exact_auc(logits[:rows, k], labels[:rows, k]) for k in range(len(RATES))
            ],
            "read_auc": metrics.auc,
        },
        repeats,
    )
    return {
        "rows": rows,
        "tasks": len(RATES),
        "buckets": metrics.buckets,
        "ms": ms,
        "exact_over_update": round(ms["exact_auc"] / ms["update"], 1),
        "error_by_task": dict(zip(map(str, RATES), np.abs(metrics.auc() - exact), strict=True)),
    }


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = parser(__doc__).parse_args()
    rows, repeats = (64, 2) if arguments.toy else (8192, 51)
    finish("streaming_metrics", measure(rows, repeats), threads=1, save=arguments.save)


if __name__ == "__main__":
    main()
