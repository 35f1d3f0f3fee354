# SPDX-License-Identifier: Apache-2.0
"""What serving counts, for /metrics: one registry a process, shown by KServe's REST server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from serving.errors import Refused

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

STAGE_SECONDS = Histogram(
    "feedsr_stage_seconds", "Time a request spends in a stage", ["stage"], buckets=BUCKETS
)
BATCH_REQUESTS = Histogram(
    "feedsr_batch_requests", "Requests joined in one forward", buckets=(1, 2, 4, 8, 16, 32, 64)
)
FORWARD_SECONDS = Histogram(
    "feedsr_forward_seconds", "Time of one packed forward, batch building included", buckets=BUCKETS
)
CANDIDATES = Histogram(
    "feedsr_candidates", "Candidates of a request", buckets=(1, 8, 32, 128, 256, 512, 1024)
)
CACHE_READS = Counter("feedsr_cache_reads_total", "Keys looked up in the cache", ["view", "result"])
HISTORY_CACHE_READS = Counter(
    "feedsr_history_cache_reads_total",
    "Histories by what was remembered: all (hit), a part (extended), or none and why",
    ["result"],
)
HISTORY_CACHE_BYTES = Gauge("feedsr_history_cache_bytes", "Bytes of the remembered histories")
HISTORY_CACHE_EVICTIONS = Counter(
    "feedsr_history_cache_evictions_total", "Remembered histories dropped for want of room"
)
DEFAULTS = Counter(
    "feedsr_defaults_total",
    "Values that are missing, stale or invalid (the declared default) or ahead of the request",
    ["view", "reason"],
)
REFUSED = Counter("feedsr_refused_total", "Requests refused", ["reason"])
LOGGED = Counter(
    "feedsr_logged_requests_total", "Requests by what became of their log entry", ["result"]
)
MODEL_VERSION = Gauge("feedsr_model_info", "The loaded model version", ["version", "spec_hash"])


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Observes the time spent inside as stage `name`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(name).observe(time.perf_counter() - start)


@contextmanager
def refusals() -> Iterator[None]:
    """Counts a `Refused` on its way out."""
    try:
        yield
    except Refused as error:
        REFUSED.labels(type(error).__name__).inc()
        raise
