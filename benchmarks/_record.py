# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: its options, its clock, and how it ends.

Run as `python -m benchmarks.<name>` from the repository's root. A benchmark ends its output with
one JSON line, and with --save keeps it in benchmarks/results. Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""The sets that decide which kernel runs, as the operating system spells them."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One setting's figures.

    Attributes:
        setting: what was measured: sizes, dtype.
        median_ms: the median milliseconds of each variant.
        ratios: quotients of medians, by a name that says which (`over`).
        facts: everything else: errors, bytes, GFLOP/s, a variant that is not there and why.
    """

    setting: dict[str, Any]
    median_ms: dict[str, float]
    ratios: dict[str, float]
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shares = self.facts.get("share_of_matmul_rate", {})
        lines = [" ".join(f"{name}={value}" for name, value in self.setting.items())]
        for name, ms in self.median_ms.items():
            share = f"  {shares[name]:4.0%} of a matmul's rate" if name in shares else ""
            lines.append(f"  {name:24}{ms:12.4f} ms{share}")
        lines += [f"  {name:38}{value:9.2f} x" for name, value in self.ratios.items()]
        return "\n".join(lines)


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has; `about` is its docstring."""
    options = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    options.add_argument("--save", action="store_true", help="write benchmarks/results/*.json")
    options.add_argument("--toy", action="store_true", help="tiny sizes, for the test")
    own = torch.get_num_threads()
    help = f"of torch and the kernels (PyTorch's own choice here: {own})"
    options.add_argument("--threads", type=int, default=own, help=help)
    return options


def start(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed options, with torch's threads and seed set as they say."""
    arguments = options.parse_args()
    if arguments.toy and arguments.save:
        options.error("--toy is no measurement, so --save keeps none; pass one of the two")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def medians_ms(
    variants: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, float]:
    """The median milliseconds of each variant, taken in turns so that drift meets all alike.

    The first turn warms caches and allocators and is not counted. A GPU is waited for before and
    after each call.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else bool
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, run in variants.items():
            wait()
            begin = time.perf_counter()
            run()
            wait()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: round(statistics.median(t), 4) for name, t in times.items()}


def spread_ms(run: Callable[[Any], object], items: Iterable[Any]) -> list[float]:
    """Milliseconds of a call for each item: where the median is not enough."""
    taken = []
    for item in items:
        begin = time.perf_counter()
        run(item)
        taken.append(1e3 * (time.perf_counter() - begin))
    return taken


def percentiles(taken_ms: Mapping[str, Sequence[float]], q: int) -> dict[str, float]:
    """The q-th percentile of each variant's milliseconds."""
    return {name: round(float(np.percentile(taken, q)), 3) for name, taken in taken_ms.items()}


def over(median_ms: Mapping[str, float], pairs: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Each named pair's first median over its second, where both variants were run."""
    return {
        name: round(median_ms[first] / median_ms[second], 3)
        for name, (first, second) in pairs.items()
        if first in median_ms and second in median_ms
    }


def rates(
    flops: Mapping[str, int], median_ms: Mapping[str, float], matmul_gflops: float
) -> dict[str, Any]:
    """Facts of each variant whose `flops` are known: GFLOP/s and the share of a matmul's rate.

    `matmul_gflops` is the limit, measured in the same turns (`matmul`).
    """
    gflops = {name: work / median_ms[name] / 1e6 for name, work in flops.items()}
    return {
        "gflop": {name: round(work / 1e9, 6) for name, work in flops.items()},
        "gflops": {name: round(rate, 1) for name, rate in gflops.items()},
        "matmul_gflops": round(matmul_gflops, 1),
        "share_of_matmul_rate": {n: round(rate / matmul_gflops, 3) for n, rate in gflops.items()},
    }


def matmul(
    shape: tuple[int, int, int], dtype: torch.dtype, device: str = "cpu"
) -> tuple[Callable[[], object], int]:
    """A plain `[rows, inner] @ [inner, columns]` to be timed beside variants, and its FLOPs.

    Its rate is the limit that `rates` divides by. `shape` is (rows, inner, columns).
    """
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    out = a.new_empty(rows, columns)  # fresh pages would be timed as well
    return lambda: torch.mm(a, b, out=out), 2 * rows * inner * columns


def cpu_name() -> str:
    """The processor's model name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def hardware(device: str, threads: int) -> dict[str, Any]:
    """What ran: the GPU where `device` is one, the CPU, its threads and its instruction sets."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    sets = [name for name in INSTRUCTION_SETS if name in flags]
    cpu = {"cpu": cpu_name(), "threads": threads, "instruction_sets": sets}
    return ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}) | cpu


def finish(
    name: str,
    results: Sequence[Result],
    *,
    threads: int,
    save: bool,
    device: str = "cpu",
    peers: Sequence[str] = (),
) -> None:
    """Prints the record as the last line, and writes results/<name>_<hardware>_<date>.json.

    Args:
        name: the benchmark's.
        results: one a setting.
        threads: threads that computed.
        save: whether to write the file.
        device: "cpu" or "cuda".
        peers: distributions that were compared with, for their versions.
    """
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    machine, distributions = hardware(device, threads), ("torch", "numpy", *peers)
    record = {
        "name": name,
        "date": date,
        "command": shlex.join(
            ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "hardware": machine,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in distributions},
        "results": [asdict(result) for result in results],
    }
    line = json.dumps(record, allow_nan=False)
    if save:
        chip = machine.get("gpu", machine["cpu"])
        slug = re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
        path = RESULTS / f"{name}_{slug}_{date}.json"
        _write(path, json.dumps(record, indent=2) + "\n")
        print(f"saved {path.relative_to(RESULTS.parent.parent)}")
    print(line, flush=True)


def _write(path: Path, text: str) -> None:
    """The whole file or none."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(rf"^{key}\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    return found[1].strip() if found else ""
