# SPDX-License-Identifier: Apache-2.0
"""How every benchmark ends: one JSON line, and with --save a dated file in benchmarks/results."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has; `about` is its docstring."""
    options = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    options.add_argument("--save", action="store_true", help="write benchmarks/results/*.json")
    options.add_argument("--toy", action="store_true", help="tiny sizes, for the test")
    return options


def medians_ms(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median milliseconds of each variant, taken in turns so that drift meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms caches and allocators
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(t), 4) for name, t in times.items()}


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def finish(name: str, result: dict[str, Any], *, threads: int, save: bool) -> None:
    """Prints the result as the last line, and writes it to results/<name>_<cpu>_<date>.json."""
    import numpy
    import torch

    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    record = {
        "name": name,
        "date": date,
        "command": shlex.join(["python", *sys.argv]),
        "hardware": {"cpu": cpu_name(), "threads": threads},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "result": result,
    }
    if save:
        slug = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}_{slug}_{date}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"saved {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    print(json.dumps(record))
