# SPDX-License-Identifier: Apache-2.0
"""Removes from a root what a declared retention no longer wants; never what a later step needs.

A file at a time, each known by its name and place: a person's own stay, and a prune that was
killed is done by the next one. The log, the registry, histories and the states that the next day
carries on are not among them. What is kept is `components.loop.retention`'s to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components.config import DailyConfig
from components.console import progress
from components.features.histories import DROPPED_DAYS
from components.features.state import Origin
from components.layout.paths import Layout
from components.loop.compaction import compact_view
from components.loop.leftovers import leftovers
from components.loop.retention import Retention, feature_days, retention
from components.registry.gate import BASELINE, CANDIDATE
from feature_repo.spec import Spec

SPLITS = ("train", "eval")
MODEL_FILES = ("config.json", "model.safetensors")
"""The first says that there is a model, and goes first."""
CHECKPOINT = "step-*/*"


@dataclass(frozen=True)
class Going:
    """What goes of one kind: files, and the folders of ours that are empty without them."""

    files: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many files, and their bytes."""

    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What went, or would go, by kind, and why something stays that is older than was asked."""

    first_day: str
    sizes: Mapping[str, Size]
    why: tuple[str, ...]


def prune(layout: Layout, config: DailyConfig, keep_days: int, *, dry_run: bool = False) -> Pruned:
    """Removes what is older than the log's last `keep_days` days; the caller holds the root's lock.

    Args:
        layout: the run's root.
        config: names the spec.
        keep_days: at least 1.
        dry_run: only say what would go.

    Raises:
        ValueError: nothing was ingested, or a version that serves or may serve is damaged; nothing
            is removed then.
    """
    stays = retention(layout, config.spec, keep_days)
    going = _going(layout, config.spec, stays)
    sizes = {kind: _size(each.files) for kind, each in going.items()}
    if not dry_run:
        _compact_features(layout, config.spec, stays)
        for each in going.values():
            _remove(each)
    return Pruned(first_day=stays.first_day, sizes=sizes, why=stays.why)


def table(pruned: Pruned, word: str) -> str:
    """What went by kind, for people: why something older stays, then files and bytes."""
    rows = [*pruned.sizes.items(), ("in all", _sum(pruned.sizes.values()))]
    lines = [f"{kind:<12} {size.files:>9,} {size.bytes:>17,}" for kind, size in rows]
    head = f"{word:<12} {'files':>9} {'bytes':>17}"
    return "\n".join([*pruned.why, f"kept from {pruned.first_day} on", head, *lines])


def _sum(sizes: Iterable[Size]) -> Size:
    every = list(sizes)
    return Size(files=sum(s.files for s in every), bytes=sum(s.bytes for s in every))


def _going(layout: Layout, spec: Spec, stays: Retention) -> dict[str, Going]:
    """What goes, by kind."""
    features = [
        layout.feature_day(view.name, day)
        for view in spec.views
        for day in _old_features(layout, view.name, stays)[:-1]
    ]
    return {
        "features": Going(tuple(features)),
        "sequences": _sequences(layout, stays),
        "runs": _runs(layout, stays),
        "requests": _requests(layout, stays),
        "dropped rows": _dropped(layout, spec),
        "leftovers": _trees(leftovers(layout.root)),
    }


def _old_features(layout: Layout, view: str, stays: Retention) -> list[str]:
    """A view's days before those that stay, in order; the last one's file is to hold all rows."""
    return [day for day in feature_days(layout, view) if day < stays.features_from]


def _compact_features(layout: Layout, spec: Spec, stays: Retention) -> None:
    """Makes one file of each view's old ones."""
    with progress("prune, views", len(spec.views)) as advance:
        for view in spec.views:
            days = _old_features(layout, view.name, stays)
            if len(days) > 1:
                compact_view(layout, view.name, days)
            advance()


def _sequences(layout: Layout, stays: Retention) -> Going:
    files, folders = [], []
    for split in SPLITS:
        for folder in sorted(layout.root.glob(f"sequences/{split}-*")):
            day = folder.name.removeprefix(f"{split}-")
            if _goes(day, stays):
                # Without its checksums a folder that is half there is no folder of shards.
                files += [*folder.glob("checksums.json"), *sorted(folder.glob("[0-9]*.arrow"))]
                folders.append(folder)
    return Going(tuple(files), tuple(folders))


def _runs(layout: Layout, stays: Retention) -> Going:
    """What is heavy in a run: its records and its report stay."""
    files: list[Path] = []
    folders: list[Path] = []
    for run in sorted(layout.root.glob("runs/*")):
        if not _goes(run.name, stays):
            continue
        for ranker in (CANDIDATE, BASELINE):
            model, checkpoints = run / ranker, run / "checkpoints" / ranker
            if run.name not in stays.model_days:
                files += [model / name for name in MODEL_FILES]
                folders.append(model)
            files += sorted(checkpoints.glob(CHECKPOINT))
            folders += [*sorted(checkpoints.glob("step-*")), checkpoints]
        kept_by_runner = sorted((run / "kfp").rglob("*"), reverse=True)
        files += [*(p for p in kept_by_runner if not _is_folder(p)), run / "pipeline.log"]
        folders += [*filter(_is_folder, kept_by_runner), run / "kfp", run / "checkpoints"]
    return Going(tuple(filter(os.path.lexists, files)), tuple(folders))


def _goes(name: str, stays: Retention) -> bool:
    """Whether a name is a day's, and one that does not stay."""
    try:
        Spec.day_number(name)
    except ValueError:
        return False
    return name < stays.first_day


def _requests(layout: Layout, stays: Retention) -> Going:
    folders = [
        folder
        for folder in sorted(layout.root.glob("requests/day=*"))
        if _goes(folder.name[4:], stays)
    ]
    files = [path for folder in folders for path in sorted(folder.glob("[0-9]*-*-*.arrow"))]
    return Going(tuple(files), tuple(folders))


def _dropped(layout: Layout, spec: Spec) -> Going:
    """What windows dropped too long ago, or in another log than theirs."""
    windows = {path.name: Origin.of_file(path) for path in layout.history_buckets()}
    days = [origin.day for origin in windows.values() if origin]
    if not days or len(days) < len(windows):
        return Going()
    oldest = spec.days_after(min(days), -DROPPED_DAYS)
    files = []
    for path in sorted(layout.state("dropped").glob("day=*/bucket=*.parquet")):
        origin, window = Origin.of_file(path), windows.get(path.name)
        fits = origin is not None and window is not None and origin.leads_to(window)
        if path.parent.name[4:] < oldest or not fits:
            files.append(path)
    return Going(tuple(files), tuple(sorted({path.parent for path in files})))


def _trees(tops: Iterable[Path]) -> Going:
    """Files, and folders with all that is in them."""
    files: list[Path] = []
    folders: list[Path] = []
    for top in tops:
        inside = [*sorted(top.rglob("*"), reverse=True), top] if _is_folder(top) else [top]
        files += [path for path in inside if not _is_folder(path)]
        folders += filter(_is_folder, inside)
    return Going(tuple(files), tuple(folders))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(files: Iterable[Path]) -> Size:
    """What is there of some files; a server may remove its own meanwhile."""
    lengths = []
    for path in files:
        with suppress(FileNotFoundError):
            lengths.append(path.lstat().st_size)
    return Size(files=len(lengths), bytes=sum(lengths))


def _remove(going: Going) -> None:
    """Removes files, then the folders that nothing else is in."""
    for path in going.files:
        path.unlink(missing_ok=True)
    for folder in going.folders:
        with suppress(OSError):
            folder.rmdir()
