# SPDX-License-Identifier: Apache-2.0
"""Rankers on disk: safetensors and JSON, written whole or not at all.

A checkpoint is a folder of `model.safetensors` and `config.json` (ranker, its configuration, spec,
record). Nothing here can execute what it reads. Does not know where checkpoints live or which is
in production.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from feature_repo.spec import Spec
from feature_repo.specs import spec_by_name
from model.build import RANKERS, build
from model.config import first_fault
from model.files import existing_folder, parse_tensors, read_bytes, tensor_bytes, write_folder
from model.ranker import Ranker

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(
    directory: Path | str,
    ranker: Ranker,
    record: Mapping[str, Any],
) -> None:
    """Writes a ranker's folder, in the place of what was there.

    The new folder is written beside the old one, flushed, and renamed; a reader finds the old one
    or the new.

    Args:
        directory: the checkpoint's folder.
        ranker: what to save; weights go as they are, whatever device they are on.
        record: how it was trained; anything that JSON holds.

    Raises:
        ValueError: the folder cannot be written (a full disk, no permission); the old one is still
            there.
    """
    weights = tensor_bytes(ranker.state_dict(), {})
    config = {
        "ranker": ranker.config.ranker,
        "config": ranker.config.model_dump(mode="json"),
        "spec_name": ranker.spec.name,
        "spec_hash": ranker.spec.hash,
        "spec": json.loads(ranker.spec.to_json()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "record": dict(record),
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_folder(directory, {WEIGHTS: weights, CONFIG: text.encode()})


def load_model(directory: Path | str, spec: Spec | None = None) -> tuple[Ranker, dict[str, Any]]:
    """The ranker of a folder, in eval mode on the CPU, and the record it was saved with.

    Args:
        directory: what `save_model` wrote.
        spec: the spec the caller will feed it with; None is the shipped one of the same name.

    Raises:
        ValueError: a file is missing or damaged, the ranker is unknown or its configuration not
            whole, or the spec is not the one that the ranker was trained with.
    """
    folder = existing_folder(Path(directory))
    config = _read_config(folder / CONFIG)
    spec = spec_by_name(config["spec_name"]) if spec is None else spec
    if spec.hash != config["spec_hash"]:
        raise ValueError(
            f"{folder} was trained with spec {config['spec_name']} {config['spec_hash']}, but the "
            f"spec in use is {spec.name} {spec.hash}; train it again or use its own spec"
        )
    weights = read_bytes(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS} is not the file that {CONFIG} was written with: it is damaged; "
            "restore both from another copy"
        )
    ranker = _build(config, spec, folder)
    tensors, _ = parse_tensors(weights, folder / WEIGHTS)
    load_weights(ranker, tensors, where=str(folder / WEIGHTS))
    return ranker.eval(), config["record"]


def load_weights(ranker: Ranker, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copies tensors into a ranker of exactly the same shape.

    Raises:
        ValueError: a tensor is missing, is not the ranker's, or has another shape; `where` is
            named.
    """
    own = ranker.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{where} has no tensor {name!r}; it is not of this configuration")
        if name not in own:
            raise ValueError(
                f"{where} has a tensor {name!r} that the ranker does not; it is not of this "
                "configuration"
            )
        if tensors[name].shape != own[name].shape:
            raise ValueError(
                f"{where}: tensor {name!r} is {list(tensors[name].shape)}, the configuration says "
                f"{list(own[name].shape)}; it is not of this configuration"
            )
    ranker.load_state_dict(dict(tensors))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_bytes(path))
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise ValueError(f"{path} is not JSON: it is damaged; restore it") from error
        raise
    wanted = {"ranker", "config", "spec_name", "spec_hash", "weights_sha256", "record"}
    absent = sorted(wanted - config.keys()) if isinstance(config, dict) else sorted(wanted)
    if absent:
        raise ValueError(f"{path} has no {absent[0]!r}: it is no model's configuration")
    return config


def _build(config: Mapping[str, Any], spec: Spec, folder: Path) -> Ranker:
    name = config["ranker"]
    if name not in RANKERS:
        raise ValueError(
            f"{folder} holds a ranker {name!r}, this version knows {', '.join(RANKERS)}; "
            "use the version that wrote it"
        )
    try:
        parsed: Any = RANKERS[name][0].model_validate(config["config"])
    except ValidationError as error:
        raise ValueError(f"{folder / CONFIG}: config.{first_fault(error)}") from error
    whole = parsed.model_dump(mode="json")
    unsaid = [field for field, value in whole.items() if config["config"].get(field) != value]
    if unsaid:  # defaults change: what is not said was something else, once
        raise ValueError(
            f"{folder / CONFIG}: config.{unsaid[0]} is not whole: another version wrote it; "
            "use that one, or train it again"
        )
    return build(parsed, spec, seed=0)
