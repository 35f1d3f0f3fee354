# SPDX-License-Identifier: Apache-2.0
"""What a declared retention lets go, and that nothing which a later day makes is another for it."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.features.online import materialize
from components.layout.paths import Layout
from components.loop.prune import Pruned, Size, prune, table
from tests.loop_builders import online_rows
from tests.retention_builders import CONFIG, SPEC, STEPS, counted, logged, run_day, tree

AFTER = 2
"""Days that are run after the prune."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, list[str]]:
    """A root whose last four days were run and promoted, with shards, requests and a kfp folder."""
    layout, days = logged(tmp_path_factory.mktemp("prune") / "root", seed=3)
    counted(layout, days[-5])
    for day in days[-4:]:
        run_day(layout, day, STEPS[:2])
        for split in ("train", "eval"):
            write(layout.sequences(split, day) / "00000.arrow", day)
            write(layout.sequences(split, day) / "checksums.json", "{}")
        write(layout.requests_day(day) / "1700000000000-12-1.arrow", day)
        write(layout.run(day) / "kfp" / "feedsr-daily" / "gate" / "executor-logs", day)
        write(layout.run(day) / "pipeline.log", day)
        write(layout.run(day) / "metrics.json", "{}")
        write(layout.checkpoints(day, "feed_sr") / "step-9" / "state.json", day)
    return layout, days


@pytest.fixture
def root(whole: tuple[Layout, list[str]], tmp_path: Path) -> tuple[Layout, list[str]]:
    """A copy of it to prune."""
    return copied(whole[0], tmp_path / "root"), whole[1]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def copied(layout: Layout, to: Path) -> Layout:
    shutil.copytree(layout.root, to, symlinks=True)
    return Layout.at(to)


def feature_days(layout: Layout) -> list[str]:
    """The days that each view has a file of: the same ones."""
    days = {
        view.name: sorted(p.stem[4:] for p in layout.feature_dir(view.name).glob("*.parquet"))
        for view in SPEC.views
    }
    assert len({tuple(each) for each in days.values()}) == 1
    return days[SPEC.views[0].name]


@pytest.mark.law
@pytest.mark.slow
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32), keep_days=st.integers(1, 9), killed=st.none() | st.integers(0, 30)
)
def test_days_after_a_prune_are_those_without_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, keep_days: int, killed: int | None
) -> None:
    folder = tmp_path_factory.mktemp("days")
    layout, days = logged(folder / "root", seed)
    counted(layout, days[-AFTER - 3])
    run_day(layout, days[-AFTER - 2], STEPS[:2])
    run_day(layout, days[-AFTER - 1])
    other = copied(layout, folder / "pruned")
    with killed_after(killed):
        assert prune(other, CONFIG, keep_days).sizes["features"].files
    begins = feature_days(other)[1] if killed is None else days[-AFTER - 3]
    for day in days[-AFTER:]:
        for each in (layout, other):
            run_day(each, day)
    kept = {
        name: digest
        for name, digest in tree(layout.root, "feast", "ledger", "promotions.json").items()
        if not re.match(r"(features/.*day=|sequences/\w+-|runs/)", name)
        or re.findall(r"\d{4}-\d\d-\d\d", name)[0] >= begins
    }
    assert {f"sequences/train-{days[-1]}/00000.arrow", f"runs/{days[-1]}/plan.json"} <= {*kept}
    assert {name: tree(other.root).get(name) for name in kept} == kept
    assert online_rows(other) == online_rows(layout)


@contextmanager
def killed_after(files: int | None) -> Iterator[None]:
    """Ends a prune, as a kill does, once it has removed so many files."""
    counter, real = itertools.count(), Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        # Other names are temporary ones, which a step removes that a prune calls.
        if not path.name.startswith(".") and next(counter) == files:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(Path, "unlink", unlink)
        yield


def test_a_prune_that_was_killed_anywhere_is_done_by_the_next(
    root: tuple[Layout, list[str]], tmp_path: Path
) -> None:
    layout, _ = root
    done = copied(layout, tmp_path / "done")
    gone = sum(size.files for size in prune(done, CONFIG, 2).sizes.values())
    for number, files in enumerate([0, 1, gone // 3, gone // 2, gone - 1]):
        killed = copied(layout, tmp_path / f"killed-{number}")
        with killed_after(files):
            prune(killed, CONFIG, 2)
            raise AssertionError
        assert len(tree(killed.root)) == len(tree(layout.root)) - files
        prune(killed, CONFIG, 2)
        assert tree(killed.root) == tree(done.root)


def test_a_prune_that_is_killed_while_it_writes_is_done_by_the_next(
    root: tuple[Layout, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, days = root
    done = copied(layout, tmp_path / "done")
    prune(done, CONFIG, 2)
    real, counter = pq.ParquetWriter.write_table, itertools.count()

    def write_table(*arguments: object) -> None:
        if next(counter) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    with pytest.raises(KeyboardInterrupt):
        prune(layout, CONFIG, 2)
    monkeypatch.undo()
    assert feature_days(layout) == days[: len(feature_days(layout))]
    prune(layout, CONFIG, 2)
    assert tree(layout.root) == tree(done.root)


def test_pruned_twice_is_pruned_once(root: tuple[Layout, list[str]]) -> None:
    layout, _ = root
    assert prune(layout, CONFIG, 2).sizes["features"].files
    once = tree(layout.root)
    assert {size.files for size in prune(layout, CONFIG, 2).sizes.values()} == {0}
    assert tree(layout.root) == once


def test_pruned_day_by_day_is_pruned_at_once(
    root: tuple[Layout, list[str]], tmp_path: Path
) -> None:
    layout, _ = root
    other = copied(layout, tmp_path / "other")
    for keep_days in (9, 7, 5, 1):
        prune(other, CONFIG, keep_days)
    prune(layout, CONFIG, 1)
    assert tree(other.root) == tree(layout.root)


def test_what_is_the_truth_or_a_person_s_stays(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    old = days[-4]
    own = [
        layout.root / "notes.txt",
        layout.root / ".settings.json.original",
        layout.feature_dir("affinity") / "day=mine.txt",
        layout.feature_dir("affinity") / ".day=2022.parquet.original",
        layout.sequences("train", old) / "look.ipynb",
        layout.model(old, "feed_sr") / "thoughts.md",
        layout.run(old) / "slides.pdf",
        layout.requests_day(old) / "mine.arrow",
        layout.root / "sequences" / "train-mine" / "00000.arrow",
        layout.root / "runs" / "mine" / "pipeline.log",
        layout.root / "requests" / "day=mine" / "1700000000000-12-1.arrow",
        layout.root / "own" / ".part.parquet.abcdefgh",
    ]
    for path in own:
        write(path, "mine")
    before = tree(layout.root)
    pruned = prune(layout, CONFIG, 1)
    after = tree(layout.root)
    assert pruned.sizes["runs"].files
    folders = ("impressions/", "registry/", "features/history/", "state/", "ledger/", "posts")
    kept = {name for name in before if name.startswith(folders)}
    kept |= {str(path.relative_to(layout.root)) for path in own}
    kept |= {f"runs/{day}/{name}" for day in days[-4:] for name in ("plan.json", "metrics.json")}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}


def test_what_is_old_goes_by_kind(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    before = tree(layout.root)
    pruned = prune(layout, CONFIG, 2)
    gone = {name for name in before if name not in tree(layout.root)}
    old = days[-4:-2]
    assert pruned.first_day == days[-2]
    assert pruned.sizes["sequences"].files == 2 * 2 * len(old)
    assert pruned.sizes["requests"].files == len(old)
    assert sum(size.files for size in pruned.sizes.values()) == len(gone)
    for day in old:
        assert not layout.sequences("train", day).exists()
        assert not layout.requests_day(day).exists()
    left = [sorted(path.name for path in layout.run(day).iterdir()) for day in old]
    assert left[0] == ["metrics.json", "plan.json"]
    assert left[1] == ["dcnv2", "feed_sr", *left[0]], "the run that stays started from these"
    for day in days[-2:]:
        assert {name for name in gone if day in name} == set()


def test_a_dry_run_says_what_would_go_and_touches_nothing(root: tuple[Layout, list[str]]) -> None:
    layout, _ = root
    before = tree(layout.root)
    would = prune(layout, CONFIG, 2, dry_run=True)
    assert tree(layout.root) == before
    assert prune(layout, CONFIG, 2) == would


def test_what_is_online_is_not_brought_online_again(root: tuple[Layout, list[str]]) -> None:
    layout, days = root
    all_rows = materialize(layout, days[-1], CONFIG)
    again = materialize(layout, days[-1], CONFIG)
    rows = online_rows(layout)
    assert prune(layout, CONFIG, 1).sizes["features"].files
    assert materialize(layout, days[-1], CONFIG) == again
    assert sum(again.values()) < sum(all_rows.values())
    assert online_rows(layout) == rows


def test_the_table_says_kinds_files_and_bytes() -> None:
    sizes = {"features": Size(files=1_200, bytes=3_000_000), "runs": Size(files=1, bytes=7)}
    pruned = Pruned(first_day="2026-01-05", sizes=sizes, why=("features are kept: why",))
    assert table(pruned, "would go").splitlines() == [
        "features are kept: why",
        "kept from 2026-01-05 on",
        "would go         files             bytes",
        "features         1,200         3,000,000",
        "runs                 1                 7",
        "in all           1,201         3,000,007",
    ]
