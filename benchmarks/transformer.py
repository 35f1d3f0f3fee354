# SPDX-License-Identifier: Apache-2.0
"""What the transformer costs beside the predictor: features of one request from Feast's SQLite
store.

    python -m benchmarks.transformer [--threads 2] [--save] [--toy]

A simulated run through the real steps; each request is another member over the same posts, the
cache warm. *whole* is decoding, fetching, assembling, encoding, scoring, sorting and the V2 reply,
without the call to the predictor (its probabilities are constants here); the parts are timed on
their own. Medians by part; p99 is among the facts.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kserve import InferRequest

from benchmarks._record import Result, finish, over, parser, percentiles, spread_ms, start
from components.config import load_config
from components.features.histories import histories
from components.features.offline import features
from components.features.online import materialize
from components.layout.paths import Layout
from components.log.ingest import ingest
from components.log.sources.simulator import simulate
from components.log.sources.simulator_config import SimulatorConfig
from feature_repo.specs import SIMULATOR as SPEC
from serving.history import decode_history
from serving.infer import bytes_tensor
from serving.launch import NAME
from serving.transformer.predictor_client import Scores
from serving.transformer.store_client import StoreClient
from serving.transformer.transformer import Transformer, TransformerConfig


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


def probabilities(count: int) -> Scores:
    """What a predictor would answer, made up."""
    made_up = np.full((count, len(SPEC.tasks)), 0.1, np.float32)
    return Scores(probabilities_NK=made_up, model_version="0", dtype="float32")


def history(store: StoreClient, member: int) -> pa.RecordBatch:
    """A member's history, read and decoded."""
    return decode_history(store.read("history", [(member,)])[0].value, SPEC).batch


def store_parts(
    store: StoreClient, posts: list[int], actors: list[int]
) -> dict[str, Callable[[int], object]]:
    """What is read from the store for a member's request, each alone."""
    content, keys = SPEC.content, [(p,) for p in posts]
    return {
        "history": lambda m: history(store, m),
        "posts_warm": lambda _: content.unpack(
            [s.value for s in store.read_cached(content.name, keys)]
        ),
        "posts_cold": lambda _: content.unpack([s.value for s in store.read(content.name, keys)]),
        "affinity": lambda m: store.read("affinity", [(m, a) for a in actors]),
    }


def timed(
    transformer: Transformer, posts: list[int], actors: list[int], turns: list[int], end: int
) -> dict[str, list[float]]:
    """Milliseconds of each part and of the whole for each member's turn; the cache is warm."""
    answer = probabilities(len(posts))

    async def whole(member: int) -> None:
        prepared = await transformer.preprocess(call(member, posts, end))
        await transformer.postprocess((prepared, [answer]))

    with asyncio.Runner() as runner:
        parts = store_parts(transformer._fetcher.store, posts, actors)
        parts["whole"] = lambda m: runner.run(whole(m))
        spread_ms(parts["whole"], turns[:20])
        gc.collect()
        gc.freeze()
        return {name: spread_ms(part, turns) for name, part in parts.items()}


def measure(layout: Layout, count: int, repeats: int) -> Result:
    """The parts and the whole."""
    posts = pq.read_table(layout.posts)["post_id"].to_pylist()[-count:]
    members = pq.read_table(layout.members)["member_id"].to_pylist()
    actors = sorted(set(pq.read_table(layout.posts)["actor_id"].to_pylist()))
    turns = [members[i % len(members)] for i in range(repeats)]
    transformer = Transformer(
        NAME, TransformerConfig(spec_name=SPEC.name, feast_dir=layout.feast, predictor_host="")
    )
    transformer.load()
    taken = timed(transformer, posts, actors, turns, SPEC.day_end(layout.raw_days()[-1]))
    lengths = [history(transformer._fetcher.store, m).num_rows for m in members]
    transformer.close()
    ms = percentiles(taken, 50)
    setting = {"posts": len(posts), "actors": len(actors), "repeats": repeats}
    return Result(
        setting=setting
        | {"history_median": float(np.median(lengths)), "history_max": max(lengths)},
        median_ms=ms,
        ratios=over(ms, {"posts_cold_over_warm": ("posts_cold", "posts_warm")}),
        facts={"p99_ms": percentiles(taken, 99)},
    )


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = start(parser(__doc__))
    os.environ.setdefault("FEEDSR_PROGRESS", "off")
    logging.disable(logging.INFO)
    count, repeats = (20, 10) if arguments.toy else (512, 400)
    with tempfile.TemporaryDirectory() as folder:
        layout = build(Path(folder) / "run", toy=arguments.toy)
        result = measure(layout, count, repeats)
    print(result)
    peers = ["feast", "kserve", "pyarrow"]
    finish("transformer", [result], threads=arguments.threads, save=arguments.save, peers=peers)


if __name__ == "__main__":
    main()
