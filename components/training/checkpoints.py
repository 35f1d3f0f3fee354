# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: whole or not there, and found again after a crash.

A checkpoint is a folder `step-<n>` that appears by one rename: weights and optimiser state in
safetensors, everything else in state.json, with the checksums of all three. What the numbers mean
is the trainer's matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.files import parse_tensors, read_bytes, tensor_bytes, write_folder

KEPT = 2
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
log = logging.getLogger("feedsr.train")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training run after `step` optimiser steps.

    Attributes:
        inputs: fingerprint of everything the run is made from; another run's checkpoint is no use.
        state: what else the trainer needs, as JSON values.
    """

    step: int
    inputs: str
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint beside the older ones and removes all but the newest two.

    Raises:
        ValueError: it could not be written (a full disk); the older checkpoints are as they were.
    """
    final = folder / _name(checkpoint.step)
    files = {
        MODEL: tensor_bytes(checkpoint.model, {}),
        OPTIMIZER: tensor_bytes(checkpoint.optimizer, {}),
    }
    run = {"step": checkpoint.step, "inputs": checkpoint.inputs, "state": checkpoint.state}
    sums = {name: _sha256(content) for name, content in files.items()}
    sums[STATE] = _sha256(json.dumps(run).encode())
    write_folder(final, {**files, STATE: json.dumps({"run": run, "sha256": sums}).encode()})
    for old in _folders(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path, inputs: str) -> Checkpoint | None:
    """The newest whole checkpoint of the run with these inputs; broken ones warn and are passed.

    None where there is none. Changes no file, so that all processes of a run may call it at once.
    """
    for path in _folders(folder):
        try:
            checkpoint = _read(path)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
            continue
        if checkpoint.inputs == inputs:
            return checkpoint
        log.warning("checkpoint %s is of a run with other inputs; it is not used", path)
    return None


def clear_checkpoints(folder: Path, through: int | None = None) -> None:
    """Removes the checkpoints after step `through`, and what a killed process left half-written.

    None removes them all, and the folder where nothing else is in it.
    """
    for path in _folders(folder):
        if through is None or path.name > _name(through):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def _read(folder: Path) -> Checkpoint:
    written = json.loads(read_bytes(folder / STATE))
    run, sums = written["run"], written["sha256"]
    contents = {name: read_bytes(folder / name) for name in (MODEL, OPTIMIZER)}
    for name, content in {**contents, STATE: json.dumps(run).encode()}.items():
        if _sha256(content) != sums[name]:
            raise ValueError(f"{name} is not the file that was written")
    return Checkpoint(
        step=run["step"],
        inputs=run["inputs"],
        model=parse_tensors(contents[MODEL], folder / MODEL)[0],
        optimizer=parse_tensors(contents[OPTIMIZER], folder / OPTIMIZER)[0],
        state=run["state"],
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
