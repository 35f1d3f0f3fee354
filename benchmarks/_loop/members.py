# SPDX-License-Identifier: Apache-2.0
"""Members whose windows are all full: a day goes through them to Redis and to SQLite.

The log is written as ingest would have written it, because simulating so many impressions takes
hours and says nothing of the steps behind ingest.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._loop.cases import START_DAY, Bench, Case, Code, link
from benchmarks._loop.measure import Call, measure

DAYS = 10
"""In which the windows were filled; the last day comes after them."""
NEWS = 10
"""Impressions of each member on the last day."""
MOST_ALONE = 20_000
"""Members whose windows also go online without other views: for a rate, these are enough."""
REPOSITORY = ("feast", "ledger")
"""What of a root is of one online store."""
WAIT_SECONDS = 30.0


def full(members: int, window: int) -> Case:
    """A case of so many members with full windows."""
    rows = members * (window + NEWS)
    buckets = max(16, rows // 1_000_000)
    return Case(kind="members", impressions=rows, days=DAYS + 1, members=members, buckets=buckets)


def run_members(case: Case, code: Code, own: Code, work: Path) -> Bench:
    """Measures the day of a case: into Redis from the day before, into SQLite from nothing.

    A Redis that is gone has lost its rows, so what follows the states of the day before is measured
    in one go or again.
    """
    log = _log(case, own, work)
    bench = Bench.of(case, code, work)
    root = bench.root
    days = sorted(p.name[4:] for p in (log / "impressions").iterdir())[-2:]
    if "backfill:histories" not in bench.costs or _broken_off(bench):
        bench.costs.clear()
        for old in root.parent.glob(f"{root.name}*/"):
            shutil.rmtree(old)
        shutil.copytree(log, root, copy_function=link)
        _states(bench, "backfill", days[0], case)
    if shutil.which("redis-server"):
        _into_redis(bench, days, case, work)
    else:
        _states(bench, "day", days[1], case)
    with _repository(root, "sqlite"):
        bench.step("all:sqlite:materialize", days[1], case.config())
    return bench


def _broken_off(bench: Bench) -> bool:
    return "day:features" in bench.costs and "day:redis:materialize" not in bench.costs


def _states(bench: Bench, phase: str, day: str, case: Case) -> None:
    for step in ("features", "histories"):
        bench.step(f"{phase}:{step}", day, case.config(), alone=True)


def _into_redis(bench: Bench, days: Sequence[str], case: Case, work: Path) -> None:
    if "day:redis:materialize" in bench.costs:
        return
    bench.costs.pop("backfill:redis:materialize", None)
    if case.members <= MOST_ALONE:
        with redis_server(work) as address, _repository(bench.root, "alone"):
            env = {"FEEDSR_REDIS": address}
            bench.step("alone:online", days[0], case.config("redis"), env=env)
    with redis_server(work) as address, _repository(bench.root, "redis"):
        for phase, day in zip(("backfill", "day"), days, strict=True):
            if phase == "day":
                _states(bench, phase, day, case)
            env = {"FEEDSR_REDIS": address}
            bench.step(f"{phase}:redis:materialize", day, case.config("redis"), env=env)
        bench.add_facts(online(address))


def online(address: str) -> dict[str, float]:
    """How many keys a Redis holds, and the memory they take."""
    from redis import Redis

    host, port = address.split(":")
    with Redis(host, int(port), socket_timeout=WAIT_SECONDS) as redis:
        memory = redis.info("memory")["used_memory"]
        return {"redis_keys": redis.dbsize(), "redis_mib": round(memory / 2**20, 1)}


@contextlib.contextmanager
def _repository(root: Path, store: str) -> Iterator[None]:
    """A store's own Feast repository in the root's place: each knows what its store holds."""
    aside = root.with_name(f"{root.name}-{store}")
    for name in REPOSITORY:
        if (aside / name).exists():
            shutil.move(aside / name, root / name)
    try:
        yield
    finally:
        for name in REPOSITORY:
            if (root / name).exists():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(root / name, aside / name)


def _log(case: Case, own: Code, work: Path) -> Path:
    """The checked impressions of a case, written where they are not there."""
    root = work / "logs" / case.log_name
    if not (root / "members.parquet").is_file():
        root.mkdir(parents=True, exist_ok=True)
        window = case.impressions // case.members - NEWS
        log = {
            "members": case.members,
            "rows": [-(-window // DAYS)] * DAYS + [NEWS],
            "start": START_DAY,
        }
        config = {**case.config(), "log": log}
        call = Call(tree=own.tree, step="windows", root=root, day="", config=config)
        if died := measure(call).died:
            raise ValueError(f"the log of {case.name} could not be written: {died}")
    return root


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A redis-server of its own on loopback that keeps nothing; gives host:port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, time.monotonic() + WAIT_SECONDS)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(WAIT_SECONDS)


def _wait_for(port: int, limit: float) -> None:
    while time.monotonic() < limit:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.05)
    raise ValueError(f"redis-server did not answer on port {port} in {WAIT_SECONDS:.0f} s")
