# SPDX-License-Identifier: Apache-2.0
"""What is online and what was built, of one small spec; and a redis-server of a test's own."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.config import DailyConfig
from components.features.online import materialize, online_histories
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.columns import column
from tests.log_builders import Log, build_run, random_log, small_config, small_spec

SPEC = small_spec("kuairand")
CONFIG = small_config(SPEC)
MEMBERS = [*range(1, 13), 99]


def online(layout: Layout, config: DailyConfig = CONFIG) -> dict[str, dict]:
    """Everything online, by view and keys."""
    store = open_store(layout, config)
    values: dict[str, dict] = {"history": online_histories(store, MEMBERS)}
    for view in SPEC.views:
        rows = [dict.fromkeys(view.keys, m) for m in range(10)]
        if view.keys == ("member_id", "actor_id"):
            rows = [{"member_id": m, "actor_id": a} for m in MEMBERS for a in range(4)]
        answer = store.get_online_features(
            features=[f"{view.name}:packed"], entity_rows=rows
        ).to_dict()
        values[view.name] = {
            tuple(answer[k][i] for k in view.keys): v for i, v in enumerate(answer["packed"])
        }
    return values


def offline(layout: Layout, name: str, field: str, days: list[str]) -> dict[tuple, bytes]:
    rows: dict[tuple, bytes] = {}
    files = [layout.feature_day(name, day) for day in days]
    for path in layout.history_buckets() if name == "history" else files:
        for row in pq.read_table(path).to_pylist():
            rows[tuple(v for k, v in row.items() if k.endswith("_id"))] = row[field]
    return rows


def assert_online_is_offline(layout: Layout, days: list[str], config: DailyConfig = CONFIG) -> None:
    """Law 3: what is served is what was built, byte for byte, and nothing else."""
    served = online(layout, config)
    for view in SPEC.views:
        built = offline(layout, view.name, "packed", days)
        for key, value in served[view.name].items():
            assert value == built.get(key), (view.name, key)
    built = offline(layout, "history", "history", days)
    assert {(m,): v for m, v in served["history"].items()} == built


def flipped(log: Log) -> Log:
    """The same log, but that members did otherwise."""
    table = log.impressions
    for name in ("click", "like", "long_dwell"):
        place = table.schema.get_field_index(name)
        values = (1 - np.abs(column(table, name))).astype(np.int8)
        table = table.set_column(place, table.schema.field(place), pa.array(values))
    return dataclasses.replace(log, impressions=table)


def change_the_log(layout: Layout, config: DailyConfig) -> list[str]:
    """Materializes a sparse log, then the same days of a corrected one; returns the days."""
    log = random_log(SPEC, 12, rows=40, members=12, posts=9, days=9)
    days = build_run(layout, log, config)
    materialize(layout, days[-1], config)
    assert_online_is_offline(layout, days, config)
    build_run(layout, flipped(log), config)
    materialize(layout, days[-1], config)
    assert_online_is_offline(layout, days, config)
    return days


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, listen: str = "port") -> Iterator[str]:
    """A redis-server of its own on loopback; gives host:port.

    Args:
        folder: where it keeps what it keeps.
        options: more of its own.
        listen: "port" in clear, "tls-port" with TLS.
    """
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--port", "0"]
    command += [f"--{listen}", str(port), "--dir", str(folder), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@contextlib.contextmanager
def redis_cluster(folder: Path) -> Iterator[list[str]]:
    """A Redis Cluster of three nodes on loopback, each with a third of the keys."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in "abc":
            (folder / name).mkdir(parents=True)
            # The other nodes' port is this one's and 10,000 if it is not said.
            bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            nodes.append(stack.enter_context(redis_server(folder / name, *bus)))
        command = ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        yield nodes


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of loopback's that signs itself, and its key."""
    key, own = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(own), "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
    return own, key
