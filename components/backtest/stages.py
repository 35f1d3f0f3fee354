# SPDX-License-Identifier: Apache-2.0
"""Pieces of work that are done once, as long as what they were made from is the same.

A stage is made from its inputs and from code: the module that does it, and all that this imports of
ours, all the way down. Which that is, is read from the imports, so no list of files can go stale.
"""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from components.layout.files import fingerprint, write_json

HOME = Path(__file__).parents[2]
"""The folder of the packages."""


class Stages:
    """Pieces of work with a stamp each: what it was made from, what came of it, how long.

    Args:
        folder: of the stamps.
        home: of the packages whose code is read.
    """

    def __init__(self, folder: Path, home: Path = HOME) -> None:
        self.folder = folder
        self.home = home
        self.done: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def run(self, name: str, inputs: Any, work: Callable[[], dict[str, Any]], code: str) -> None:
        """Does the work, or nothing where its stamp has the same inputs and code.

        Args:
            name: of the stage, and of its stamp's file.
            inputs: JSON values that the outcome is a function of.
            work: returns JSON values to keep.
            code: dotted name of the module that does it.
        """
        stamp = fingerprint({"inputs": inputs, "code": code_hash(code, self.home)})
        path = self.folder / f"{name}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("stamp") != stamp:
            path.unlink(missing_ok=True)
            started = time.monotonic()
            values = work()
            kept = {"stamp": stamp, **values, "seconds": round(time.monotonic() - started, 2)}
            write_json(path, kept)
        self.done[name] = stamp
        self.values[name] = {k: v for k, v in kept.items() if k != "stamp"}


def code_hash(module: str, home: Path = HOME) -> str:
    """64 hex digits over the files that running a module of the packages reads."""
    digest = hashlib.sha256()
    for path in sorted(code_files(module, home)):
        digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def code_files(module: str, home: Path = HOME) -> set[Path]:
    """The module's file and those of all that it imports, all the way down.

    Native sources that lie beside them are among them.
    """
    waiting, seen = [*module_files(module, home)], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            for name in imports(path, home):
                waiting += module_files(name, home)
    native = {file for path in seen for file in (path.parent / "cpu").glob("*") if file.is_file()}
    return seen | native


def module_files(name: str, home: Path = HOME) -> list[Path]:
    """The files below `home` that an import of a dotted name runs: its packages', and its own."""
    files: list[Path] = []
    folder = home
    for part in name.split("."):
        file = folder / f"{part}.py"
        folder = folder / part
        if file.is_file():
            return [*files, file]
        if not (folder / "__init__.py").is_file():
            return files
        files.append(folder / "__init__.py")
    return files


@cache
def imports(path: Path, home: Path = HOME) -> tuple[str, ...]:
    """Dotted names of all that a file imports, at any depth, with `from a import b` as `a.b`."""
    package = path.relative_to(home).parts[:-1]
    return tuple(_imports(ast.parse(path.read_text(), str(path)), package))


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{name}.{alias.name}" for alias in node.names)
