# SPDX-License-Identifier: Apache-2.0
"""The predictor as a process: its flags, and from them a model that serves.

`python -m serving.predictor --model_dir DIR`. It decides nothing about a request.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from serving import server
from serving.predictor.allocator import keep_freed_memory
from serving.predictor.batcher import BatcherConfig
from serving.predictor.predictor import Predictor
from serving.predictor.scorer import DTYPES, ScorerConfig


def main(argv: Sequence[str] | None = None) -> None:
    """The predictor process; a mistake in its setting ends in one sentence and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        keep_freed_memory()
        server.check_flags(arguments)
        if arguments.torch_threads:
            torch.set_num_threads(arguments.torch_threads)
        predictor = Predictor(
            arguments.model_name,
            arguments.model_dir,
            max_candidates=arguments.max_candidates,
            batching=BatcherConfig(
                window_ms=arguments.batch_window_ms,
                max_batch=arguments.max_batch,
                max_queue=arguments.max_queue,
            ),
            scoring=ScorerConfig(
                device=arguments.device,
                dtype=arguments.dtype,
                history_cache_bytes=arguments.history_cache_mib * 2**20,
            ),
        )
        predictor.load()
    except ValueError as error:
        print(f"predictor: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    server.run(predictor, arguments)
    predictor.batcher.close()


def _parser() -> argparse.ArgumentParser:
    parser = server.parser("The predictor: decoded requests in, probabilities per task out.")
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--max_candidates", type=int, default=512)
    parser.add_argument("--batch_window_ms", type=float, default=BatcherConfig.window_ms)
    parser.add_argument("--max_batch", type=int, default=BatcherConfig.max_batch)
    parser.add_argument("--max_queue", type=int, default=BatcherConfig.max_queue)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the transformer's blocks; bfloat16 where the processor computes in it",
    )
    parser.add_argument(
        "--history_cache_mib",
        type=int,
        default=512,
        help="MiB for the keys and values of histories seen before; 0 remembers none",
    )
    parser.add_argument("--torch_threads", type=int, default=0, help="0 leaves it to torch")
    return parser
