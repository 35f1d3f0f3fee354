# SPDX-License-Identifier: Apache-2.0
"""A day of the loop: each step's time, memory and bytes, by the size and the age of the log.

Each step runs in a process of its own, as on a cluster. `--before` measures another checkout's code
on the same logs. `docs/scale.md` is rendered from the record by `--page`. The long cases are chosen
by options; the default takes about a minute.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks._loop.cases import Bench, Case, Code, aged, run_case, simulated, sized
from benchmarks._loop.figures import growth, result
from benchmarks._loop.members import full, run_members
from benchmarks._record import RESULTS, Result, finish, parser, start

HERE = Path(__file__).resolve().parents[1]
PEERS = ("pyarrow", "duckdb", "feast", "redis")


def main() -> None:
    """Measures what the options choose."""
    arguments = start(options())
    if arguments.page:
        _render()
        return
    # Whoever ends this process ends the step and the server that it started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _folder(arguments.work) as work:
        results = measured(arguments, work)
    for one in results:
        print(one)
    finish("loop", results, threads=arguments.threads, save=arguments.save, peers=PEERS)


def options() -> argparse.ArgumentParser:
    """The cases, and whose code."""
    cases = parser(__doc__)
    add = cases.add_argument
    add("--impressions", type=int, nargs="*", default=[], help="sizes of logs of nine days")
    add("--days", type=int, nargs="*", default=[], help="ages of logs with the same rows a day")
    add("--rows", type=int, default=30_000, help="impressions a day of --days")
    add("--members", type=int, nargs="*", default=[], help="members with full windows, online")
    add("--window", type=int, default=1_000, help="impressions a window of --members")
    add("--spark", type=int, nargs="*", default=[], help="sizes of logs for both engines")
    add("--before", type=Path, help="another checkout, measured beside this one")
    add("--after", type=Path, default=HERE, help="the checkout that is measured; this one")
    add("--only", choices=("before", "after"), help="leave the other checkout's new cases out")
    add("--work", type=Path, help="keep logs and measurements here, and go on from them")
    add("--kept", action="store_true", help="measure nothing: what --work holds is the record")
    add("--page", action="store_true", help="render docs/scale.md from the newest record")
    return cases


def _render() -> None:
    from benchmarks._loop.page import newest, render
    from benchmarks._loop.picture import picture
    from components.layout.files import atomic_path

    record = newest(RESULTS)
    render(HERE / "docs" / "scale.md", record)
    with atomic_path(HERE / "docs" / "pictures" / "scale.svg") as temporary:
        temporary.write_text(picture(record))
    print("docs/scale.md: rendered")


def measured(arguments: argparse.Namespace, work: Path) -> list[Result]:
    """A result for each case and checkout, cheapest kinds first."""
    results = []
    for case in _cases(arguments):
        for code in _codes(arguments):
            bench = Bench.of(case, code, work) if arguments.kept else _run(case, code, work)
            if bench.complete or not arguments.kept:
                results.append(result(case, code, bench))
    return growth(results)


def _run(case: Case, code: Code, work: Path) -> Bench:
    print(f"{case.name}, {code.name}", flush=True)
    own = Code(name="after", tree=HERE)
    if case.kind == "members":
        return run_members(case, code, own, work)
    return run_case(case, code, simulated(case, own, work), work)


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    chosen = arguments.impressions or arguments.days or arguments.members or arguments.spark
    if arguments.toy:
        yield replace(sized(2_000, days=4), brief=True)
    yield from map(sized, arguments.impressions or ([] if chosen or arguments.toy else [20_000]))
    yield from (aged(days, arguments.rows) for days in arguments.days)
    for size in arguments.spark:
        yield from engines(size)
    yield from (full(members, arguments.window) for members in arguments.members)


def engines(size: int) -> Sequence[Case]:
    """The same log by both engines; of this machine's alone where there is no other yet."""
    from components.config import DailyConfig

    if "engine" not in DailyConfig.model_fields:
        print("there is no engine beside this machine's: --spark measures nothing")
        return ()
    return [sized(size).by(engine) for engine in ("local", "spark")]


def _codes(arguments: argparse.Namespace) -> list[Code]:
    codes = [Code(name="after", tree=arguments.after.resolve())]
    if arguments.before:
        codes.insert(0, Code(name="before", tree=arguments.before.resolve()))
    return [code for code in codes if arguments.only in (None, code.name)]


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that goes away."""
    if work:
        yield work.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="feedsr-loop-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
