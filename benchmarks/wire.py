# SPDX-License-Identifier: Apache-2.0
"""What a predictor call costs beside the model: a real process, V2 gRPC with Arrow, one caller.

    python -m benchmarks.wire [--save] [--toy]

The *overhead* of a call is its round trip less the time of the server's own forward (batch building
and model) in the same call, read from the server's metrics. The model is small on purpose and runs
on one thread. Medians by part; p99 is among the facts.
"""

from __future__ import annotations

import tempfile
import urllib.request
from pathlib import Path

from benchmarks._record import Result, finish, parser, percentiles, spread_ms, start
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


def calls(server: Server, rows: int, count: int, repeats: int) -> dict[str, list[float]]:
    """Round trips and overheads of `repeats` calls, in milliseconds."""
    client = Grpc(server.grpc)
    call = message(SIMULATOR, history_value(SIMULATOR, rows, 1), candidates(SIMULATOR, count, 1))
    for _ in range(10):
        client.infer(call)
    round_trips, overheads = [], []
    for _ in range(repeats):
        before = forward_ms(server)
        round_trips += spread_ms(client.infer, [call])
        overheads.append(round_trips[-1] - (forward_ms(server) - before))
    return {"round_trip": round_trips, "overhead": overheads}


def codec(rows: int, count: int, repeats: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of each half of the codec in this process, and the bytes of a message."""
    features, context = candidates(SIMULATOR, count, 1)
    history = history_value(SIMULATOR, rows, 1)
    data = encode_candidates(SIMULATOR, features, context)
    turns = range(repeats)
    taken = {
        "encode_candidates": spread_ms(
            lambda _: encode_candidates(SIMULATOR, features, context), turns
        ),
        "decode_candidates": spread_ms(lambda _: decode_candidates(SIMULATOR, data, count), turns),
        "decode_history": spread_ms(lambda _: decode_history(history, SIMULATOR), turns),
    }
    return taken, {"history": len(history), "candidates": len(data)}


def measure(rows: int, count: int, repeats: int) -> Result:
    """One setting, against a predictor that is started for it."""
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
            taken = calls(server, rows, count, repeats)
        finally:
            server.stop()
    halves, size = codec(rows, count, repeats)
    taken |= halves
    return Result(
        setting={"T": rows, "N": count, "repeats": repeats},
        median_ms=percentiles(taken, 50),
        ratios={},
        facts={"p99_ms": percentiles(taken, 99), "bytes": size},
    )


def main() -> None:
    """Measures and ends with one JSON line."""
    arguments = start(parser(__doc__))
    result = measure(*((20, 8, 5) if arguments.toy else (1000, 512, 200)))
    print(result)
    finish("wire", [result], threads=1, save=arguments.save, peers=["grpcio", "kserve", "pyarrow"])


if __name__ == "__main__":
    main()
