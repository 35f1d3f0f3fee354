# SPDX-License-Identifier: Apache-2.0
"""What the transformer costs beside the predictor: features of one request from Feast's SQLite
store.

    python benchmarks/transformer.py [--save] [--toy]

A simulated run through the real steps; each request is another member over the same posts, the
cache warm. *whole* is decoding, fetching, assembling, encoding, scoring, sorting and the V2 reply,
without the call to the predictor (its probabilities are constants here); the parts are timed on
their own.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _record import finish, parser
from kserve import InferRequest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from components.config import load_config
from components.features import day_end, features
from components.histories import histories
from components.ingest import ingest
from components.layout import Layout
from components.materialize import materialize
from components.sources.simulator import simulate
from components.sources.simulator_config import SimulatorConfig
from feature_repo.specs import SIMULATOR as SPEC
from serving.history import decode_history
from serving.infer import bytes_tensor
from serving.launch import NAME
from serving.predictor_client import Scores
from serving.transformer import Transformer, TransformerConfig


def build(root: Path, *, toy: bool) -> Layout:
    """A run with an online store."""
    layout, config = Layout.at(root), load_config("demo")
    sizes = {"members": 30, "impressions": 2_000, "posts_per_day": 30}
    if not toy:
        sizes = {"members": 300, "impressions": 120_000, "posts_per_day": 400}
    simulate(layout, SimulatorConfig(days=3, actors=150, **sizes))
    for day in layout.raw_days():
        for step in (ingest, features, histories):
            step(layout, day, config)
    materialize(layout, layout.raw_days()[-1], config)
    return layout


def spread(run: Callable[[Any], object], items: Sequence[Any]) -> dict[str, float]:
    """p50 and p99 in milliseconds of a call for each item."""
    taken = []
    for item in items:
        start = time.perf_counter()
        run(item)
        taken.append(1e3 * (time.perf_counter() - start))
    return {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (50, 99)}


def call(member: int, posts: list[int], time_ms: int) -> InferRequest:
    """A V2 request as the server hands it to the transformer."""
    columns = {
        "member_id": pa.array([member], pa.int64()),
        "candidates": pa.array([posts], pa.list_(pa.int64())),
        "time_ms": pa.array([time_ms], pa.int64()),
    }
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tensor = bytes_tensor("requests", sink.getvalue().to_pybytes())
    return InferRequest(NAME, [tensor], request_id="", from_grpc=True)


def measure(layout: Layout, count: int, repeats: int) -> dict[str, Any]:
    """The parts and the whole."""
    posts = pq.read_table(layout.posts)["post_id"].to_pylist()[-count:]
    members = pq.read_table(layout.members)["member_id"].to_pylist()
    turns = [members[i % len(members)] for i in range(repeats)]
    end = day_end(SPEC, layout.raw_days()[-1])
    transformer = Transformer(
        NAME,
        TransformerConfig(spec_name=SPEC.name, feast_dir=layout.feast, predictor_host=""),
    )
    transformer.load()
    store = transformer._fetcher.store
    actors = sorted(set(pq.read_table(layout.posts)["actor_id"].to_pylist()))
    keys = [(p,) for p in posts]
    answer = Scores(
        probabilities_NK=np.full((len(posts), len(SPEC.tasks)), 0.1, np.float32), model_version="0"
    )

    async def whole(member: int) -> None:
        prepared = await transformer.preprocess(call(member, posts, end))
        await transformer.postprocess((prepared, [answer]))

    content = SPEC.content
    with asyncio.Runner() as runner:

        def run(member: int) -> None:
            runner.run(whole(member))

        for member in turns[:20]:
            run(member)
        gc.collect()
        gc.freeze()
        lengths = [
            decode_history(store.read("history", [(m,)])[0].value, SPEC).batch.num_rows
            for m in members
        ]
        result = {
            "posts": len(posts),
            "history_rows": {"median": float(np.median(lengths)), "max": max(lengths)},
            "history_ms": spread(
                lambda m: decode_history(store.read("history", [(m,)])[0].value, SPEC), turns
            ),
            "posts_warm_ms": spread(
                lambda _: content.unpack([s.value for s in store.read_cached(content.name, keys)]),
                turns,
            ),
            "posts_cold_ms": spread(
                lambda _: content.unpack([s.value for s in store.read(content.name, keys)]),
                turns[:50],
            ),
            "affinity_ms": spread(
                lambda m: store.read("affinity", [(m, a) for a in actors]), turns
            ),
            "actors": len(actors),
            "whole_ms": spread(run, turns),
        }
    transformer.close()
    return result


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = parser(__doc__).parse_args()
    os.environ.setdefault("FEEDSR_PROGRESS", "off")
    logging.disable(logging.INFO)
    count, repeats = (20, 10) if arguments.toy else (512, 400)
    with tempfile.TemporaryDirectory() as folder:
        layout = build(Path(folder) / "run", toy=arguments.toy)
        result = measure(layout, count, repeats)
    finish("transformer", result, threads=os.cpu_count() or 1, save=arguments.save)


if __name__ == "__main__":
    main()
