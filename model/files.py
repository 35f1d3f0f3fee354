# SPDX-License-Identifier: Apache-2.0
"""Tensors in files: safetensors with JSON, written whole or not at all.

Knows bytes, folders and optimisers' state; does not know rankers. Nothing here can execute what it
reads.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as a flat dictionary for `tensor_bytes`: `<parameter index>.<name>`.

    Hyperparameters of its groups are not in it: they belong to the training configuration.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts what `optimizer_tensors` gave back into an optimiser of the same parameters."""
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)


def write_folder(directory: Path | str, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files in one step: all of them and flushed, or what was there before.

    Raises:
        ValueError: it cannot be written; what was there is still there.
    """
    directory = Path(directory)
    with _one_sentence(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        for stale in directory.parent.glob(f".{glob.escape(directory.name)}.new-*"):
            shutil.rmtree(stale, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.new-"))
        try:
            for name, content in files.items():
                _write(new / name, content)
            new.chmod(0o755)
            _flush_folder(new)
            _replace_folder(directory, new)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _replace_folder(directory: Path, new: Path) -> None:
    """Moves the old folder aside, the new one in; `existing_folder` knows what a kill leaves."""
    aside = _aside(directory)
    if directory.exists():
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
    try:
        new.rename(directory)
    except OSError:
        if aside.exists():
            aside.rename(directory)
        raise
    _flush_folder(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.previous")


def existing_folder(directory: Path) -> Path:
    """The folder, or the one moved aside where a writer was killed; ValueError without either."""
    if directory.is_dir():
        return directory
    if _aside(directory).is_dir():
        return _aside(directory)
    raise ValueError(f"there is no model at {directory}; train one or name another folder")


def tensor_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """A safetensors file of tensors by name, with a JSON record in its header."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"record": json.dumps(dict(record), sort_keys=True)}
    return safetensors.torch.save(plain, metadata)


def parse_tensors(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a safetensors file's bytes; ValueError names `path`."""
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        return tensors, json.loads(header.get("__metadata__", {}).get("record", "{}"))
    except (safetensors.SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file or is damaged ({error})") from error


def read_bytes(path: Path) -> bytes:
    """A file whole; ValueError says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror}; what was there is unchanged, make room or "
            "choose another place and run it again"
        ) from error
