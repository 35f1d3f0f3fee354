# SPDX-License-Identifier: Apache-2.0
"""The transformer as a process: its flags, and from them a model that serves.

`python -m serving.transformer --feast_dir DIR --spec_name NAME --predictor_host HOST:PORT`. It
decides nothing about a request.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serving import server
from serving.transformer.request_log import LogConfig
from serving.transformer.store_client import CacheConfig
from serving.transformer.transformer import Transformer, TransformerConfig


def main(argv: Sequence[str] | None = None) -> None:
    """The transformer process; a mistake in its setting ends in one sentence and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        server.check_flags(arguments)
        transformer = Transformer(arguments.model_name, _config(arguments))
        transformer.load()
    except ValueError as error:
        print(f"transformer: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    server.run(transformer, arguments)
    transformer.close()


def _config(arguments: argparse.Namespace) -> TransformerConfig:
    if not arguments.predictor_host:
        raise ValueError("--predictor_host is missing; give the predictor's HOST:GRPC_PORT")
    return TransformerConfig(
        spec_name=arguments.spec_name,
        feast_dir=arguments.feast_dir,
        predictor_host=arguments.predictor_host,
        max_candidates=arguments.max_candidates,
        max_queue=arguments.max_queue,
        timeout=min(arguments.predictor_timeout, arguments.predictor_request_timeout_seconds),
        max_age_hours=arguments.max_age_hours,
        cache=CacheConfig(seconds=arguments.cache_seconds, entries=arguments.cache_entries),
        log=LogConfig(rate=arguments.log_rate),
        log_dir=arguments.log_dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = server.parser("The transformer: a member and candidates in, a ranked feed out.")
    parser.add_argument("--feast_dir", type=Path, required=True, help="rendered Feast repository")
    parser.add_argument("--spec_name", required=True, help="feature spec, as the model's")
    parser.add_argument("--max_candidates", type=int, default=512)
    parser.add_argument("--predictor_timeout", type=float, default=10.0, help="seconds")
    parser.add_argument("--max_queue", type=int, default=TransformerConfig.max_queue)
    parser.add_argument("--max_age_hours", type=float, default=TransformerConfig.max_age_hours)
    parser.add_argument("--cache_seconds", type=float, default=CacheConfig.seconds)
    parser.add_argument("--cache_entries", type=int, default=CacheConfig.entries)
    parser.add_argument("--log_dir", type=Path, help="folder of the request log; absent: none")
    parser.add_argument("--log_rate", type=float, default=LogConfig.rate, help="share logged")
    return parser
