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

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.config import DailyConfig
from components.layout.files import write_json
from components.layout.locks import locked
from components.layout.paths import Layout
from components.registry.gate import CANDIDATE, GateVerdict

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
    model = layout.model(day, CANDIDATE)
    fingerprint, verdict = model_hash(model), _verdict(layout, day)
    if verdict.model != fingerprint:
        raise ValueError(
            f"the gate of {day} judged other weights than {model} holds now; "
            "evaluate and gate the day again, then register"
        )
    version = f"{day}-{fingerprint[:8]}"
    with locked(layout.registry / ".lock"):
        if not (_folder(layout, version) / "version.json").is_file():
            _write_version(layout, version, model, _record(layout, day, config, verdict))
    return version


def promote(layout: Layout, version: str, *, force: bool = False) -> None:
    """Points `current` at a version; promoting what is current already changes nothing.

    Raises:
        ValueError: an unknown or damaged version, or one the gate refused and `force` is not set.
    """
    record = version_record(layout, version)
    if not record["gate"]["passed"] and not force:
        failed = [c["reason"] for c in record["gate"]["checks"] if not c["passed"]]
        raise ValueError(f"the gate refused {version}: {'; '.join(failed)} (force promotes it)")
    _verify(layout, version, record)
    with locked(layout.registry / ".lock"):
        history = _history(layout)
        if current(layout) != version:
            _point(layout, version, [*history, _entry("promote", version)])


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
        _verify(layout, version, version_record(layout, version))
        _point(layout, version, [*history, _entry("rollback", version)])
    return version


def prune(layout: Layout, keep: int) -> list[str]:
    """Deletes all but the newest `keep` versions; returns the names of those that are gone.

    What is in production, and what a rollback would go to, always stays.
    """
    with locked(layout.registry / ".lock"):
        found = versions(layout)
        stay = {
            current(layout),
            *_stack(_history(layout))[-2:],
            *found[max(len(found) - keep, 0) :],
        }
        gone = [version for version in found if version not in stay]
        for version in gone:
            hidden = _folder(layout, version).with_name(f".{version}.pruned")
            _folder(layout, version).rename(hidden)
            _remove(hidden)
    return gone


def current(layout: Layout) -> str | None:
    """The version in production; None before the first promotion."""
    link = layout.registry / "current"
    return link.readlink().name if link.is_symlink() else None


def versions(layout: Layout) -> list[str]:
    """Every registered version, by day and then name."""
    return sorted(p.parent.name for p in layout.registry.glob("versions/[!.]*/version.json"))


def promotions(layout: Layout) -> list[dict[str, Any]]:
    """What was promoted and rolled back, in order: action, version, time (UTC, ISO 8601)."""
    path = layout.registry / "promotions.json"
    return json.loads(path.read_text()) if path.is_file() else []


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


def version_record(layout: Layout, version: str) -> dict[str, Any]:
    """The version.json of a version: day, hash, spec, metrics per task, the gate's verdict."""
    return json.loads((version_folder(layout, version) / "version.json").read_text())


def _folder(layout: Layout, version: str) -> Path:
    return layout.registry / "versions" / version


def _verdict(layout: Layout, day: str) -> GateVerdict:
    path = layout.run(day) / "gate.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the gate judges a model before it is registered")
    return GateVerdict.read(path)


def _record(layout: Layout, day: str, config: DailyConfig, verdict: GateVerdict) -> dict[str, Any]:
    """What a version remembers of its day; holds no time of writing, so that it is reproducible."""
    metrics = json.loads((layout.run(day) / "metrics.json").read_text())
    return {
        "day": day,
        "model": verdict.model,
        "ranker": CANDIDATE,
        "spec": config.spec.name,
        "spec_hash": config.spec.hash,
        "freshness": config.freshness,
        "metrics": metrics["rankers"][CANDIDATE]["tasks"],
        "gate": dataclasses.asdict(verdict),
    }


def _write_version(layout: Layout, version: str, model: Path, record: dict[str, Any]) -> None:
    """Copies into a hidden folder, makes it read-only and durable, and renames it into place."""
    target = _folder(layout, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".*"):
        _remove(left)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{version}."))
    try:
        for name in MODEL_FILES:
            shutil.copyfile(model / name, staging / name)
        write_json(staging / "version.json", {"version": version, **record})
        if model_hash(staging) != record["model"]:
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


def _verify(layout: Layout, version: str, record: dict[str, Any]) -> None:
    """ValueError if the files of a version are not the ones that were registered."""
    folder = _folder(layout, version)
    if model_hash(folder) != record["model"]:
        raise ValueError(
            f"the files in {folder} are not the ones that were registered; restore them or "
            "register the day again under a clean registry"
        )


def _point(layout: Layout, version: str, history: list[dict[str, Any]]) -> None:
    """Moves `current`, then writes the history; `_history` repairs a crash between the two."""
    link = layout.registry / "current"
    temporary = layout.registry / f".current.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("versions") / version)
    temporary.replace(link)
    _sync(layout.registry)
    write_json(layout.registry / "promotions.json", history)


def _history(layout: Layout) -> list[dict[str, Any]]:
    """The promotions; `current` is the truth where a crash kept the last one from being written."""
    history, now = promotions(layout), current(layout)
    if now is not None and (not history or history[-1]["version"] != now):
        stack = _stack(history)
        action = "rollback" if stack[-2:-1] == [now] else "promote"
        history.append(_entry(action, now))
    return history


def _stack(history: list[dict[str, Any]]) -> list[str]:
    """The versions that were in production, oldest first, without those rolled back from."""
    stack: list[str] = []
    for entry in history:
        if entry["action"] == "rollback":
            stack.pop()
        else:
            stack.append(entry["version"])
    return stack


def _entry(action: str, version: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"action": action, "version": version, "time": now}
