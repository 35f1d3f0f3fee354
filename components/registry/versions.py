# SPDX-License-Identifier: Apache-2.0
"""The registry: a directory of immutable model versions with an atomic `current`.

A version's name is the day and a hash of its files, so registering the same model twice is
registering it once. Nothing here trains, judges or loads a model: it copies, checks and points.
Every change happens under one file lock; a reader needs none, because `versions/<name>` and
`current` appear by a rename.

    registry/versions/<day>-<hash8>/   model.safetensors, config.json, version.json; read-only
    registry/current                   symlink to the version in production
    registry/promotions.json           what was promoted and rolled back, in order
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.config import DailyConfig
from components.layout.files import write_json
from components.layout.locks import locked
from components.layout.paths import Layout
from components.registry.gate import CANDIDATE
from components.registry.json_record import read_value
from components.registry.records import Promotion, VersionRecord
from components.registry.run import Run

MODEL_FILES = ("model.safetensors", "config.json")
"""What a version serves; nothing else is copied from a run, nothing that could hold a pickle."""


def model_hash(folder: Path) -> str:
    """64 hex digits over the files of a model folder; ValueError names one that is missing."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: {folder} does not hold a trained model")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def register(layout: Layout, day: str, config: DailyConfig) -> str:
    """Copies the day's model into the registry with its metrics and the gate's verdict.

    Returns:
        The version's name; registering the same model again returns it and changes nothing.

    Raises:
        ValueError: there is no model or no verdict, or the verdict is on other weights.
    """
    model, run = layout.model(day, CANDIDATE), Run(layout, day)
    fingerprint, verdict = model_hash(model), run.verdict
    if verdict.model != fingerprint:
        raise ValueError(
            f"the gate of {day} judged other weights than {model} holds now; "
            "evaluate and gate the day again, then register"
        )
    record = VersionRecord(
        day=day,
        version=f"{day}-{fingerprint[:8]}",
        model=fingerprint,
        ranker=CANDIDATE,
        spec=config.spec.name,
        spec_hash=config.spec.hash,
        freshness=config.freshness,
        metrics=run.metrics.rankers[CANDIDATE].tasks,
        gate=verdict,
    )
    with locked(layout.registry / ".lock"):
        if not _record_file(layout, record.version).is_file():
            _write_version(layout, record, model)
    return record.version


def promote(layout: Layout, version: str, *, force: bool = False) -> None:
    """Points `current` at a version; promoting what is current already changes nothing.

    Raises:
        ValueError: an unknown or damaged version, or one the gate refused and `force` is not set.
    """
    record = version_record(layout, version)
    if not record.gate.passed and not force:
        failed = "; ".join(record.gate.reasons)
        raise ValueError(f"the gate refused {version}: {failed} (force promotes it)")
    _verify(layout, record)
    with locked(layout.registry / ".lock"):
        history = _history(layout)
        if current(layout) != version:
            _point(layout, [*history, _promotion("promote", version)])


def rollback(layout: Layout) -> str:
    """Points `current` at the version that was in production before, and returns its name.

    Raises:
        ValueError: nothing was in production before, or that version is damaged.
    """
    with locked(layout.registry / ".lock"):
        history = _history(layout)
        stack = _stack(history)
        if len(stack) < 2:
            raise ValueError(
                f"{layout.registry} has no earlier version to roll back to; promote one by name"
            )
        version = stack[-2]
        _verify(layout, version_record(layout, version))
        _point(layout, [*history, _promotion("rollback", version)])
    return version


def prune(layout: Layout, keep: int) -> list[str]:
    """Deletes all but the newest `keep` versions; returns the names of those that are gone.

    What is in production, and what a rollback would go to, always stays.
    """
    with locked(layout.registry / ".lock"):
        registered = versions(layout)
        newest = registered[max(len(registered) - keep, 0) :]
        stay = {*in_use(layout), *newest}
        gone = [version for version in registered if version not in stay]
        for version in gone:
            hidden = _folder(layout, version).with_name(f".{version}.pruned")
            _folder(layout, version).rename(hidden)
            _remove(hidden)
    return gone


def in_use(layout: Layout) -> list[str]:
    """What a rollback would go to, and what is in production; nothing before a promotion."""
    now = current(layout)
    return sorted({*_stack(_history(layout))[-2:], *([now] if now else [])})


def current(layout: Layout) -> str | None:
    """The version in production; None before the first promotion."""
    link = layout.registry / "current"
    return link.readlink().name if link.is_symlink() else None


def versions(layout: Layout) -> list[str]:
    """Every registered version, by day and then name."""
    return sorted(p.parent.name for p in layout.registry.glob("versions/[!.]*/version.json"))


def promotions(layout: Layout) -> list[Promotion]:
    """What was promoted and rolled back, in order."""
    path = layout.registry / "promotions.json"
    return read_value(list[Promotion], path, Promotion.remedy) if path.is_file() else []


def version_folder(layout: Layout, version: str) -> Path:
    """The folder of a version, which serving loads; ValueError lists the versions there are."""
    if version not in versions(layout):
        have = ", ".join(versions(layout)) or "none yet"
        if version == current(layout):
            raise ValueError(
                f"{version} is in production and gone from {layout.registry / 'versions'}: restore "
                f"it, promote another ({have}), or remove {layout.registry / 'current'}"
            )
        raise ValueError(f"{layout.registry} has no version {version!r}; have {have}")
    return _folder(layout, version)


def version_record(layout: Layout, version: str) -> VersionRecord:
    """What a version remembers; ValueError as `version_folder`, or it is damaged."""
    return VersionRecord.read(version_folder(layout, version) / "version.json")


def _folder(layout: Layout, version: str) -> Path:
    return layout.registry / "versions" / version


def _record_file(layout: Layout, version: str) -> Path:
    return _folder(layout, version) / "version.json"


def _write_version(layout: Layout, record: VersionRecord, model: Path) -> None:
    """Copies into a hidden folder, makes it read-only and durable, and renames it into place."""
    version = record.version
    target = _folder(layout, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".*"):
        _remove(left)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{version}."))
    try:
        for name in MODEL_FILES:
            shutil.copyfile(model / name, staging / name)
        record.write(staging / "version.json")
        if model_hash(staging) != record.model:
            raise ValueError(f"{model} changed while it was registered; register {version} again")
        _freeze(staging)
        staging.rename(target)
        _sync(target.parent)
    except BaseException:
        _remove(staging)
        raise


def _remove(staging: Path) -> None:
    """Removes what an attempt that failed or was killed left; only the lock's holder makes any."""
    staging.chmod(0o700)
    shutil.rmtree(staging)


def _freeze(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
        _sync(path)
    folder.chmod(0o555)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _verify(layout: Layout, record: VersionRecord) -> None:
    """ValueError if the files of a version are not the ones that were registered."""
    folder = _folder(layout, record.version)
    if model_hash(folder) != record.model:
        raise ValueError(
            f"the files in {folder} are not the ones that were registered; restore them or "
            "register the day again under a clean registry"
        )


def _point(layout: Layout, history: Sequence[Promotion]) -> None:
    """Moves `current` to the last promotion's version, then writes the history.

    `_history` repairs a crash between the two.
    """
    link = layout.registry / "current"
    temporary = layout.registry / f".current.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("versions") / history[-1].version)
    temporary.replace(link)
    _sync(layout.registry)
    moves = [promotion.plain() for promotion in history]
    write_json(layout.registry / "promotions.json", moves)


def _history(layout: Layout) -> list[Promotion]:
    """The promotions; `current` is the truth where a crash kept the last one from being written."""
    history, now = promotions(layout), current(layout)
    if now is not None and (not history or history[-1].version != now):
        back = _stack(history)[-2:-1] == [now]
        history.append(_promotion("rollback" if back else "promote", now))
    return history


def _stack(history: Sequence[Promotion]) -> list[str]:
    """The versions that were in production, oldest first, without those rolled back from."""
    stack: list[str] = []
    for promotion in history:
        if promotion.action == "rollback":
            stack.pop()
        else:
            stack.append(promotion.version)
    return stack


def _promotion(action: Literal["promote", "rollback"], version: str) -> Promotion:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Promotion(action=action, version=version, time=now)
