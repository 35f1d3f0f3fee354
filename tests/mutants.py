# SPDX-License-Identifier: Apache-2.0
"""Which small changes of the core no test would notice: `python -m tests.mutants`, `make mutants`.

Each mutant (`tests.mutant_operators`) is run against the tests of its module in a process of its
own, forked from one that has imported the libraries. No file is touched: the child imports the
changed module in the place of the real one. Processes that tests start see the real one, so what is
counted is what tests in the process notice. Results are kept in `build/mutants/` and used again
while module and tests stay as they are.

`tests/mutants.json` names the equivalent ones: those that change nothing that is promised, and why.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from tests import conftest
from tests.mutant_operators import Mutant, mutants, mutate

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "build" / "mutants"
EQUIVALENT = ROOT / "tests" / "mutants.json"
BAR = 0.95
"""The least share of the non-equivalent mutants that tests must notice."""
SAMPLE = 20
"""Mutants of a module that are run without `--all`: those whose names hash lowest."""
NOT_RUN = "not slow and not gpu and not redis and not kuairand"
MODULES: dict[str, tuple[str, ...]] = {
    "kernels/shared_context_attention/seqlens.py": (
        "kernels/shared_context_attention/test_seqlens.py",
        "kernels/shared_context_attention/test_a_plan_lives_until_the_backward.py",
        "kernels/shared_context_attention/test_attention_is_its_specification.py",
    ),
    "kernels/streaming_metrics/histogram.py": ("kernels/streaming_metrics/test_histogram.py",),
    "kernels/streaming_metrics/reference.py": ("kernels/streaming_metrics/test_reference.py",),
    "model/heads.py": ("model/test_heads.py", "model/test_golden.py"),
    "model/layers/block.py": (
        "model/layers/test_block.py",
        "model/layers/test_layer.py",
        "model/test_golden.py",
        "model/test_declared_costs_are_counted_ones.py",
    ),
    "model/layers/hstu.py": (
        "model/layers/test_hstu.py",
        "model/layers/test_layer.py",
        "model/test_golden.py",
        "model/test_declared_costs_are_counted_ones.py",
    ),
    "model/layers/residual.py": ("model/layers/test_residual.py", "model/test_golden.py"),
    "model/layers/positions.py": ("model/layers/test_positions.py", "model/test_golden.py"),
    "components/training/loss.py": (
        "components/training/test_loss.py",
        "components/training/test_propensity.py",
    ),
    "components/training/optimizer.py": ("components/training/test_optimizer.py",),
    "components/training/trainer.py": (
        "components/training/test_trainer.py",
        "components/training/test_trainer_run.py",
        "components/training/test_distributed.py",
        "components/training/test_run_interrupted.py",
    ),
    "components/training/data.py": (
        "components/training/test_data.py",
        "components/training/test_propensity.py",
    ),
    "components/training/propensity.py": ("components/training/test_propensity.py",),
    "components/training/curve.py": ("components/training/test_curve.py",),
    "components/training/teachers.py": (
        "components/training/test_teachers.py",
        "components/training/test_propensity.py",
    ),
    "components/registry/gate.py": ("components/registry/test_gate.py",),
    "components/registry/run.py": ("components/registry/test_run.py",),
    "components/registry/json_record.py": ("components/registry/test_json_record.py",),
    "components/evaluation/drift.py": ("components/evaluation/test_drift.py",),
    "components/backtest/bootstrap.py": ("components/backtest/test_bootstrap.py",),
    "components/evaluation/scorecard.py": ("components/evaluation/test_scorecard.py",),
    "components/backtest/scored.py": ("components/backtest/test_scored.py",),
    "components/log/ingest.py": (
        "components/log/test_ingest_by_hand.py",
        "components/log/test_ingest_rows.py",
        "components/log/test_nothing_kept.py",
        "components/log/test_ingest.py",
    ),
    "components/log/duplicates.py": (
        "components/log/test_duplicates.py",
        "components/log/test_ingest_by_hand.py",
    ),
    "components/log/declarations.py": (
        "components/log/test_declarations.py",
        "components/log/test_ingest_rows.py",
    ),
    "components/log/columns.py": ("components/log/test_columns.py",),
    "components/log/counts.py": ("components/log/test_counts.py",),
    "components/log/checks.py": ("components/log/test_checks.py",),
    "components/log/times.py": ("components/log/test_times.py",),
    "components/log/schema.py": ("components/log/test_schema.py",),
    "components/log/sessions.py": (
        "components/log/test_sessions.py",
        "components/log/test_ingest_by_hand.py",
        "components/log/test_ingest_sessions.py",
    ),
    "components/features/counters.py": ("components/features/test_counters_by_hand.py",),
    "components/features/history_columns.py": ("components/features/test_history_columns.py",),
    "components/registry/plan.py": ("components/registry/test_plan.py",),
    "components/registry/versions.py": ("components/registry/test_versions.py",),
    "components/layout/paths.py": ("components/layout/test_paths.py",),
    "serving/history.py": ("serving/test_history.py", "serving/test_damaged_histories_are_told.py"),
    "serving/predictor/history_cache.py": ("serving/predictor/test_history_cache.py",),
    "serving/wire.py": ("serving/test_wire.py", "serving/predictor/test_scorer.py"),
    "serving/payload.py": ("serving/test_payload.py",),
    "serving/transformer/feed_request.py": ("serving/transformer/test_feed_request.py",),
    "serving/transformer/features.py": ("serving/transformer/test_features.py",),
    "serving/assemble.py": ("serving/test_assemble.py",),
    "serving/transformer/utility.py": ("serving/transformer/test_utility.py",),
    "serving/infer.py": ("serving/test_infer.py",),
    "serving/protocol/message.py": ("serving/protocol/test_message.py",),
    "serving/protocol/body.py": ("serving/protocol/test_body.py",),
    "serving/errors.py": ("serving/test_errors.py",),
    "serving/excerpt.py": ("serving/test_excerpt.py",),
    "serving/predictor/decode.py": ("serving/predictor/test_decode.py",),
    "serving/predictor/rank_batch.py": (
        "serving/predictor/test_rank_batch.py",
        "serving/predictor/test_scorer.py",
    ),
    "serving/predictor/scorer.py": (
        "serving/predictor/test_scorer.py",
        "serving/predictor/test_history_cache.py",
    ),
    "serving/transformer/request_log.py": ("serving/transformer/test_request_log.py",),
    "serving/predictor/batcher.py": ("serving/predictor/test_batcher.py",),
}
"""The core, and the tests (under `tests/`, the quickest first) that must notice its changes."""


@dataclass(frozen=True)
class Outcome:
    """What became of a module's mutants: name to "caught", "survived" or "equivalent"."""

    module: str
    results: dict[str, str]

    def count(self, what: str) -> int:
        """How many ended so."""
        return sum(result == what for result in self.results.values())

    def survivors(self) -> list[str]:
        """Those that no test noticed."""
        return [name for name, result in self.results.items() if result == "survived"]


@dataclass(frozen=True)
class Limits:
    """How long a child may run, in whole seconds: an endless loop ends by the processor's, a wait
    without end by the clock's, which a busy machine must not reach.
    """

    cpu_s: int = 3600
    wall_s: int = 3600


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from changed code; everything else about it is as on disk."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, tree: ast.Module) -> None:
        self._path, self._name = ROOT / module, module.removesuffix(".py").replace("/", ".")
        self._code = compile(tree, str(self._path), "exec")

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Changed(fullname, str(self._path), self._code)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def _run_tests(module: str, tree: ast.Module | None, tests: Sequence[str], log: Path) -> int:
    """Runs in the child: the tests' exit code over the changed module."""
    import hypothesis
    import pytest

    os.setsid()
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if tree is not None:
        sys.meta_path.insert(0, _Finder(module, tree))
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    paths = [str(ROOT / "tests" / test) for test in tests if (ROOT / "tests" / test).exists()]
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "randomly")]
    code = int(pytest.main(["-x", "-q", "--no-header", "-m", NOT_RUN, *plugins, *paths]))
    if tree is None:
        log.with_suffix(".json").write_text(json.dumps(_libraries()))
    return code


def _libraries() -> list[str]:
    """What is imported from outside: none of it depends on what is changed. An extension of ours
    lies outside too, and importing it would import the module beside it as it is.
    """
    files = {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}
    outside = {n for n, f in files.items() if "site-packages" in f or not f.startswith(str(ROOT))}
    ours = {module.split("/")[0] for module in MODULES}
    return sorted(n for n in outside - {"__main__", "conftest"} if n.split(".")[0] not in ours)


def _preload(names: Sequence[str]) -> None:
    """Imports libraries once, for every child; what cannot be is imported by those who want it."""
    for name in names:
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)


def _start(
    module: str, tree: ast.Module | None, tests: Sequence[str], log: Path, limits: Limits
) -> int:
    """Forks the child and returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
        code = _run_tests(module, tree, tests, log)
    finally:
        os._exit(code)


def _wait(running: dict[int, tuple[Mutant, float]], limits: Limits) -> list[tuple[Mutant, str]]:
    """Takes those that have ended out of `running`, and kills those that are over their time."""
    ended = []
    for pid, (mutant, started) in list(running.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done and time.monotonic() - started > limits.wall_s:
            os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0)
        if done:
            del running[pid]
            passed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            ended.append((mutant, "survived" if passed else "caught"))
    return ended


def _baseline(module: str, tests: Sequence[str]) -> Limits:
    """What a child may take, by what the tests take on the module as it is; they must pass."""
    log, started = RESULTS / f"{os.getpid()}-baseline.log", time.monotonic()
    _, status, usage = os.wait4(_start(module, None, tests, log, Limits()), 0)
    if status:
        sys.exit(f"the tests of {module} fail without any change:\n{log.read_text()[-2000:]}")
    wall_s, cpu_s = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    _preload(json.loads(log.with_suffix(".json").read_text()))
    return Limits(cpu_s=round(10 + 4 * cpu_s), wall_s=round(60 + 10 * wall_s))


def _key(module: str, tests: Sequence[str]) -> str:
    """A hash of what the results depend on: module, its tests, and what those are built from."""
    builders = [p for p in ROOT.glob("tests/*.py") if p.name != "mutants.py"]
    files = [ROOT / module, *(ROOT / "tests" / t for t in tests), *builders]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def _chosen(module: str, everything: bool, text: str) -> list[Mutant]:
    every = mutants((ROOT / module).read_text())
    if text:
        every = [m for m in every if text in m.name]
    if everything or len(every) <= SAMPLE:
        return every
    by_hash = sorted(every, key=lambda m: hashlib.sha256(f"{module}:{m.name}".encode()).digest())
    return sorted(by_hash[:SAMPLE], key=lambda m: m.place)


def equivalents() -> dict[str, dict[str, str]]:
    """By module, the names of the equivalent mutants and why each is one."""
    named: dict[str, dict[str, str]] = json.loads(EQUIVALENT.read_text())
    return named


def judge(module: str, chosen: list[Mutant], tests: Sequence[str], workers: int) -> Outcome:
    """Runs what has no result yet and keeps each as soon as it is there."""
    path = RESULTS / f"{module.replace('/', '.')}.json"
    key = _key(module, tests)
    kept = json.loads(path.read_text()) if path.exists() else {}
    results: dict[str, str] = kept.get("results", {}) if kept.get("key") == key else {}
    named = equivalents().get(module, {})
    left = [m for m in chosen if m.name not in results and m.name not in named]
    limits = _baseline(module, tests) if left else Limits()
    source, running = (ROOT / module).read_text(), dict[int, tuple[Mutant, float]]()
    while left or running:
        while left and len(running) < workers:
            mutant = left.pop(0)
            log = RESULTS / f"{os.getpid()}-{mutant.place}-{mutant.number}.log"
            pid = _start(module, mutate(source, mutant), tests, log, limits)
            running[pid] = (mutant, time.monotonic())
        time.sleep(0.05)
        for mutant, result in _wait(running, limits):
            results[mutant.name] = result
            (RESULTS / f"{os.getpid()}-{mutant.place}-{mutant.number}.log").unlink(missing_ok=True)
            if result == "survived":
                print(f"  {module}:{mutant.line}  {mutant.name}", flush=True)
            scratch = path.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps({"key": key, "results": results}, indent=1))
            scratch.replace(path)
    ended = {m.name: "equivalent" if m.name in named else results[m.name] for m in chosen}
    return Outcome(module, ended)


def _stale() -> list[str]:
    """Equivalent mutants that are named and that there are no more."""
    gone = []
    for module, named in equivalents().items():
        there = {m.name for m in mutants((ROOT / module).read_text())}
        gone += [f"{module}: {name}" for name in named if name not in there]
    return gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints who survived; 0 where at least `BAR` of the non-equivalent ones were noticed."""
    parser = argparse.ArgumentParser(description="Mutants of the core that no test notices.")
    parser.add_argument("modules", nargs="*", help="paths; default: the chosen list")
    parser.add_argument("--all", action="store_true", help=f"all mutants, not {SAMPLE} a module")
    parser.add_argument("--tests", nargs="*", help="other tests than the list's, under tests/")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--workers", type=int, default=1, help="processes at once")
    options = parser.parse_args(arguments)
    chosen = {m: _chosen(m, options.all, options.only) for m in options.modules or MODULES}
    if options.list:
        for module, found in chosen.items():
            print(*(f"{module}:{m.line}  {m.name}" for m in found), sep="\n")
        return 0
    conftest.pytest_configure()
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    _preload(("torch", "pytest", "hypothesis"))
    outcomes = []
    for module, found in chosen.items():
        tests = options.tests or MODULES[module]
        outcomes.append(judge(module, found, tests, options.workers))
        print(_line(outcomes[-1]), flush=True)
    return _verdict(outcomes)


def _line(outcome: Outcome) -> str:
    caught, survived = outcome.count("caught"), outcome.count("survived")
    same = outcome.count("equivalent")
    return f"{outcome.module}: {caught} of {caught + survived} noticed, {same} equivalent"


def _verdict(outcomes: list[Outcome]) -> int:
    caught = sum(o.count("caught") for o in outcomes)
    judged = caught + sum(o.count("survived") for o in outcomes)
    share = caught / judged if judged else 1.0
    print(f"{caught} of {judged} noticed: {100 * share:.1f} %, want {100 * BAR:.0f} %")
    gone = _stale()
    print(*(f"named in {EQUIVALENT.name} but gone: {name}" for name in gone), sep="\n")
    return int(share < BAR or bool(gone))


if __name__ == "__main__":
    sys.exit(main())
