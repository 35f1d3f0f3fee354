# SPDX-License-Identifier: Apache-2.0
"""A step of the loop in this process, by the code of any checkout; it ends by saying what it took.

Run as `python benchmarks/_loop/step.py '<Call as JSON>'`. Imports nothing of ours until the tree
whose code runs is chosen, so it may be another commit's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ALONE = {"features": "offline", "histories": "histories"}
"""Steps whose function is called by itself where the log was not made by ingest, and its module."""


def choose(tree: str) -> None:
    """Makes the packages of a checkout those that are imported, with the compiled kernels here."""
    sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
    sys.path.insert(0, tree)
    site = Path(sysconfig.get_paths()["purelib"])
    if any(site.glob("kernels/*/_cpu.*")):
        os.environ.setdefault("FEEDSR_NATIVE", str(site))


def written_config(values: dict[str, Any], folder: str) -> str:
    """A JSON file of what the tree's configuration knows of some values."""
    from components.config import DailyConfig, load_config

    base = json.loads(load_config("demo").model_dump_json())
    base |= {name: value for name, value in values.items() if name in DailyConfig.model_fields}
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(base))
    return str(path)


def run(call: dict[str, Any]) -> Any:
    """What the step gave."""
    with tempfile.TemporaryDirectory(prefix="feedsr-loop-") as folder:
        config = written_config(call["config"], folder)
        if call["step"] == "simulate":
            return _simulate(call["root"], call["config"]["log"])
        if call["step"] == "windows":
            return _windows(call["root"], call["config"]["log"])
        if call["step"] == "sequences":
            return _sequences(call["root"], call["day"], config)
        if call["step"] == "online":
            return _online(call["root"], call["day"], config)
        if call["alone"] and call["step"] in ALONE:
            return _alone(call["step"], call["root"], call["day"], config)
        from components.loop.steps import run_step

        return run_step(call["step"], call["root"], call["day"], config)


def _simulate(root: str, values: dict[str, Any]) -> str:
    from components.layout.paths import Layout
    from components.log.sources import SimulatorConfig, simulate

    return str(simulate(Layout.at(root), SimulatorConfig(**values)))


def _windows(root: str, values: dict[str, Any]) -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks._loop.windows import write

    return write(Path(root), values)


def _alone(step: str, root: str, day: str, config: str) -> Any:
    from importlib import import_module

    from components.config import load_config
    from components.layout.paths import Layout

    function = getattr(import_module(f"components.features.{ALONE[step]}"), step)
    return function(Layout.at(root), day, load_config(config))


def _sequences(root: str, day: str, config: str) -> str:
    """A warm day's: what a model of two days before has not seen, and the day to judge it by."""
    from components.config import load_config
    from components.layout.paths import Layout
    from components.training.sequences import sequences

    layout, loaded = Layout.at(root), load_config(config)
    after, through = layout.impression_days()[-3:-1]
    train = sequences(layout, day, loaded, "train", after, through)
    return f"{train}, {sequences(layout, day, loaded, 'eval', through, day)}"


def _online(root: str, day: str, config: str) -> dict[str, float]:
    """The windows alone, through Feast's own call; the seconds are of that call."""
    from datetime import UTC, datetime

    from components.config import load_config
    from components.features.store import apply_store, open_store
    from components.layout.paths import Layout

    layout, loaded = Layout.at(root), load_config(config)
    store = open_store(layout, loaded)
    apply_store(layout, loaded.spec, store)
    end = datetime.fromtimestamp(loaded.spec.day_end(day) / 1000, UTC)
    started = time.monotonic()
    store.materialize(datetime.fromtimestamp(0, UTC), end, feature_views=["history"])
    return {"inside_s": round(time.monotonic() - started, 3)}


def peak_bytes() -> int:
    """The most memory that this process, or a child that it waited for, has had at once."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(int(status), children)


def main() -> None:
    """Runs the call, and says on the last line what it took, however it ended."""
    call = json.loads(sys.argv[1])
    choose(call["tree"])
    own: dict[str, float] = {}
    try:
        gave = run(call)
        print(gave, file=sys.stderr)
        own |= gave if call["step"] == "online" else {}
    finally:
        read = int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])
        own |= {"peak_bytes": peak_bytes(), "read_bytes": read}
        print(json.dumps(own), flush=True)


if __name__ == "__main__":
    main()
