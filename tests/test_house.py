# SPDX-License-Identifier: Apache-2.0
"""The house: arrows point down only, light rooms stay light, and nothing unsafe is loaded
anywhere.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("components", "serving", "model", "kernels", "feature_repo")
BELOW: dict[str, tuple[str, ...]] = {
    "components": ("serving", "model", "kernels", "feature_repo"),
    "serving": ("model", "kernels", "feature_repo"),
    "model": ("kernels", "feature_repo"),
    "kernels": (),
    "feature_repo": (),
}
"""Which rooms each room may import, beside itself."""
SPEC = ("feature_repo.kinds", "feature_repo.spec", "feature_repo.specs")
"""What the rooms that carry no Feast may read of `feature_repo`."""
HEAVY = ("feast", "kfp", "kserve", "pandas", "duckdb")
PACKAGES = {
    "model": ("torch", "numpy", "pyarrow", "pydantic", "safetensors"),
    "kernels": ("torch", "numpy", "pyarrow", "triton"),
}
"""All that the light rooms may import beside the standard library."""
SOURCES = sorted(
    path
    for folder in (*ROOMS, "tests", "benchmarks", "manifests", ".ci")
    for suffix in ("*.py", "*.sh", "*.cpp", "*.h", "*.hpp", "*.cu", "*.cuh")
    for path in (ROOT / folder).rglob(suffix)
)
CODE = [p for p in SOURCES if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in ROOMS]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth, with `from a import b` as `a.b`."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{name}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert {room_of(p) for p in CODE} == set(ROOMS)


@pytest.mark.parametrize("path", CODE, ids=identify)
def test_arrows_point_down_only(path: Path) -> None:
    room = room_of(path)
    allowed = (room, *BELOW[room])
    upward = [n for n in imports(path) if top(n) in (*ROOMS, "tests") and top(n) not in allowed]
    assert upward == [], f"{identify(path)} may import of ours {allowed} only"


@pytest.mark.parametrize("path", [p for p in CODE if room_of(p) in PACKAGES], ids=identify)
def test_light_rooms_stay_light(path: Path) -> None:
    room = room_of(path)
    names = list(imports(path))
    assert [n for n in names if top(n) in HEAVY] == []
    allowed = {*PACKAGES[room], room, *BELOW[room], "__future__", *sys.stdlib_module_names}
    assert [n for n in names if top(n) not in allowed] == []
    reads = [n for n in names if top(n) == "feature_repo"]
    assert [n for n in reads if not n.startswith(SPEC)] == []


@pytest.mark.law
@pytest.mark.parametrize("path", CODE, ids=identify)
def test_nothing_unsafe_is_loaded(path: Path) -> None:
    """Law 7 by reading: no pickle in any form, and no loader that runs it."""
    unsafe = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    assert [n for n in imports(path) if top(n) in unsafe] == []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = f"{node.value.id}.{node.attr}"
            assert call not in {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}, call
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            raise AssertionError(f"{identify(path)}:{node.value.lineno} allows pickle")


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_every_source_says_its_licence_first(path: Path) -> None:
    lines = path.read_text().splitlines()
    first = lines[1] if lines and lines[0].startswith("#!") else (lines or [""])[0]
    assert first.lstrip("#/ *") == "SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p) != "tests"], ids=identify)
def test_no_file_grows_beyond_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_walk_sees_every_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above stand on `imports`; it must see lazy, relative and aliased ones."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "kernels" / "loader" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b as c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def k():\n    import model\n    from serving.x import y\n"
    )
    assert list(imports(path)) == [
        "a.b", "d.e", "kernels.loader.f", "kernels.g.h", "model", "serving.x.y",
    ]  # fmt: skip
