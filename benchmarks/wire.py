# SPDX-License-Identifier: Apache-2.0
"""What a predictor call costs beside the model: a real process, V2 gRPC with Arrow, one caller.

    python benchmarks/wire.py [--save] [--toy]

The *overhead* of a call is its round trip less the time of the server's own forward (batch building
and model) in the same call, read from the server's metrics; p50 and p99 over all calls. The model
is small on purpose.
"""

from __future__ import annotations

import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from _record import finish, parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from feature_repo.specs import SIMULATOR
from model.checkpoint import save_model
from serving.history import decode_history
from serving.launch import Server, Serving, start_predictor, wait_ready
from serving.wire import decode_candidates, encode_candidates
from tests.serving_builders import Grpc, candidates, history_value, message, noisy_ranker


def forward_ms(server: Server) -> float:
    """The sum of all forwards so far."""
    with urllib.request.urlopen(f"{server.url}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return 1e3 * next(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("feedsr_forward_seconds_sum")
    )


def calls(server: Server, rows: int, count: int, repeats: int) -> dict[str, Any]:
    """Round trips and overheads of `repeats` calls, in milliseconds."""
    client = Grpc(server.grpc)
    call = message(SIMULATOR, history_value(SIMULATOR, rows, 1), candidates(SIMULATOR, count, 1))
    for _ in range(10):
        client.infer(call)
    round_trips, overheads = [], []
    for _ in range(repeats):
        before, start = forward_ms(server), time.perf_counter()
        client.infer(call)
        round_trips.append(1e3 * (time.perf_counter() - start))
        overheads.append(round_trips[-1] - (forward_ms(server) - before))
    return {"round_trip_ms": spread(round_trips), "overhead_ms": spread(overheads)}


def codec(rows: int, count: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each half of the codec in this process."""
    features, context = candidates(SIMULATOR, count, 1)
    history = history_value(SIMULATOR, rows, 1)
    data = encode_candidates(SIMULATOR, features, context)
    parts = {
        "encode_candidates": lambda: encode_candidates(SIMULATOR, features, context),
        "decode_candidates": lambda: decode_candidates(SIMULATOR, data, count),
        "decode_history": lambda: decode_history(history, SIMULATOR),
    }
    times = {}
    for name, part in parts.items():
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            part()
            taken.append(1e3 * (time.perf_counter() - start))
        times[name] = spread(taken)
    return {"ms": times, "bytes": {"history": len(history), "candidates": len(data)}}


def spread(values: list[float]) -> dict[str, float]:
    """p50 and p99."""
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 99)}


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = parser(__doc__).parse_args()
    rows, count, repeats = (20, 8, 5) if arguments.toy else (1000, 512, 200)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", noisy_ranker(SIMULATOR), {"freshness": "day"})
        serving = Serving(
            model_dir=Path(folder) / "model",
            feast_dir=Path(folder),
            spec_name=SIMULATOR.name,
            predictor_flags=("--torch_threads", "1"),
        )
        server = start_predictor(serving, Path(folder))
        try:
            wait_ready([server], 120)
            result = {"history": rows, "candidates": count, **calls(server, rows, count, repeats)}
        finally:
            server.stop()
    result["codec"] = codec(rows, count, repeats)
    finish("wire", result, threads=1, save=arguments.save)


if __name__ == "__main__":
    main()
