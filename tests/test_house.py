# SPDX-License-Identifier: Apache-2.0
"""The house: who may import whom, how full a room may be, and that tests mirror the code."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from components.backtest.stages import code_files, imports, module_files

ROOT = Path(__file__).parent.parent
PACKAGES = ("components", "serving", "model", "kernels", "feature_repo")
GROUND = ("components", "components/layout", "feature_repo")
"""What every room of the loop may use; the files of `components` itself are the ground."""
SPOKEN = ("serving", "serving/protocol")
MODEL = ("model", "model/layers", "model/rivals")
BELOW: dict[str, tuple[str, ...]] = {
    "components": ("feature_repo", "model"),
    "components/layout": (),
    "components/log": GROUND,
    "components/features": (*GROUND, "components/log", "serving"),
    "components/training": (
        *GROUND, "components/log", "components/features", "serving", "model", "kernels",
    ),
    "components/registry": (*GROUND, "model"),
    "components/evaluation": (
        *GROUND, "components/log", "components/features", "components/training",
        "components/registry", "serving", "serving/transformer", "serving/predictor", "model",
        "kernels",
    ),
    "components/backtest": (
        *GROUND, "components/log", "components/features", "components/training",
        "components/registry", "components/evaluation", "serving/predictor", "model", "kernels",
    ),
    "components/studies": (
        *GROUND, "components/log", "components/features", "components/training",
        "components/registry", "components/evaluation", "components/backtest",
        "serving/predictor", "model", "kernels",
    ),
    "components/loop": (
        *GROUND, "components/log", "components/features", "components/training",
        "components/registry", "components/evaluation", "serving",
    ),
    "components/cli": (
        *GROUND, "components/log", "components/registry", "components/loop",
        "components/backtest", "components/studies",
    ),
    "serving": ("feature_repo", "serving/protocol"),
    "serving/protocol": ("serving",),
    "serving/transformer": (*SPOKEN, "feature_repo"),
    "serving/predictor": (*SPOKEN, "feature_repo", "model"),
    "model": (*MODEL, "kernels", "feature_repo"),
    "model/layers": (*MODEL, "kernels", "feature_repo"),
    "model/rivals": (*MODEL, "kernels", "feature_repo"),
    "kernels": (),
    "feature_repo": (),
}  # fmt: skip
"""Which rooms each room may import, beside itself. A sub-room is part of its room."""
SPEC = ("feature_repo.kinds", "feature_repo.spec", "feature_repo.specs")
"""What the rooms that carry no Feast may read of `feature_repo`."""
HEAVY = ("feast", "kfp", "kserve", "pandas", "duckdb")
LIGHT = {
    "model": ("torch", "numpy", "pyarrow", "pydantic", "safetensors"),
    "kernels": ("torch", "numpy", "pyarrow", "triton"),
}
"""All that the light packages may import beside the standard library and what they read of ours."""
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "tests", "benchmarks", "manifests", "docs", ".ci")
    for suffix in ("*.py", "*.sh", "*.cpp", "*.h", "*.hpp", "*.cu", "*.cuh")
    for path in (ROOT / folder).rglob(suffix)
)
CODE = [p for p in SOURCES if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in PACKAGES]
MODULES = [p for p in CODE if p.name not in ("__init__.py", "__main__.py")]
MOST_FILES, MOST_ENTRIES, MOST_LINES = 15, 12, 300
SHIM_LINES = 30
UNSAFE_CALLS = {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}
ELSEWHERE = {
    "feature_repo/offline_store.py": "components/features/test_moved.py",
    "components/registry/metrics.py": "components/registry/test_run.py",
    "components/registry/records.py": "components/registry/test_run.py",
    "kernels/_native.py": "kernels/test_native.py",
    "kernels/shared_context_attention/gpu/backward.py": (
        "kernels/shared_context_attention/gpu/test_triton_is_its_specification.py"
    ),
    "kernels/shared_context_attention/gpu/forward.py": (
        "kernels/shared_context_attention/gpu/test_triton_is_its_specification.py"
    ),
}
"""Modules whose tests are not in the file of their name, and where those are."""


def top(name: str) -> str:
    return name.partition(".")[0]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def room_of(path: Path) -> str:
    """The room of a file, or the room of its sub-room."""
    folder = path.relative_to(ROOT).parent
    while str(folder) not in BELOW:
        folder = folder.parent
    return str(folder)


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def target(name: str) -> Path | None:
    """The file of ours that a dotted name stands for."""
    return module_files(name, ROOT)[-1] if module_files(name, ROOT) else None


def reads(path: Path) -> set[Path]:
    """The files of ours that a file imports by name."""
    return {file for name in imports(path, ROOT) if (file := target(name))} - {path}


def test_there_is_something_to_check() -> None:
    assert {package_of(p) for p in CODE} == set(PACKAGES)
    assert {room_of(p) for p in CODE} == set(BELOW)


def test_arrows_are_those_that_are_drawn() -> None:
    for path in CODE:
        allowed = {room_of(path), *BELOW[room_of(path)]}
        beyond = [identify(file) for file in reads(path) if room_of(file) not in allowed]
        assert beyond == [], f"{identify(path)} may import of ours {sorted(allowed)} only"
        assert "tests" not in {top(name) for name in imports(path, ROOT)}, identify(path)


def test_the_drawing_has_no_arrow_that_runs_up() -> None:
    """Rooms of one package may need each other; packages and the loop's rooms may not."""
    floors = {
        room: {other for other in below if not same_package(room, other)}
        for room, below in BELOW.items()
    }
    while floors:
        ground = [room for room, below in floors.items() if not below & floors.keys()]
        assert ground, f"a circle among {sorted(floors)}"
        for room in ground:
            del floors[room]


def same_package(room: str, other: str) -> bool:
    return top_folder(room) == top_folder(other) and top_folder(room) in ("model", "serving")


def top_folder(room: str) -> str:
    return room.partition("/")[0]


def test_no_file_reaches_itself() -> None:
    """No circle of imports, those inside functions and for the type checker alone included."""
    graph = {path: reads(path) for path in CODE}
    while graph:
        leaves = [path for path, read in graph.items() if not read & graph.keys()]
        assert leaves, f"a circle among {sorted(map(identify, graph))}"
        for path in leaves:
            del graph[path]


def test_light_packages_stay_light() -> None:
    for path in (p for p in CODE if package_of(p) in LIGHT):
        package, names = package_of(path), imports(path, ROOT)
        ours = (package, *(top_folder(room) for room in BELOW[package]))
        allowed = {*LIGHT[package], *ours, "__future__", *sys.stdlib_module_names}
        assert [n for n in names if top(n) not in allowed] == [], identify(path)
        read = [n for n in names if top(n) == "feature_repo"]
        assert [n for n in read if not n.startswith(SPEC)] == [], identify(path)


@pytest.mark.parametrize(
    ("process", "never"),
    [("serving.transformer", {"torch"}), ("serving.predictor", {"feast", "kfp", "duckdb"})],
)
def test_an_image_carries_what_its_process_reaches(process: str, never: set[str]) -> None:
    files = code_files(f"{process}.__main__", ROOT)
    reached = {top(name) for file in files if file.suffix == ".py" for name in imports(file, ROOT)}
    assert reached & never == set()
    assert "kserve" in reached


@pytest.mark.law
def test_nothing_unsafe_is_loaded() -> None:
    """Law 7 by reading: no pickle in any form, and no loader that runs it."""
    unsafe = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path in CODE:
        assert [n for n in imports(path, ROOT) if top(n) in unsafe] == [], identify(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                call = f"{node.value.id}.{node.attr}"
                assert call not in UNSAFE_CALLS, f"{identify(path)}:{node.lineno}: {call}"
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", f"{identify(path)}:{node.value.lineno}"


def test_every_source_says_its_licence_first() -> None:
    for path in SOURCES:
        lines = path.read_text().splitlines()
        first = lines[1] if lines and lines[0].startswith("#!") else (lines or [""])[0]
        assert first.lstrip("#/ *") == "SPDX-License-Identifier: Apache-2.0", identify(path)


@pytest.mark.parametrize("room", sorted({p.parent for p in CODE}), ids=identify)
def test_a_room_says_what_it_is_for_and_holds_no_crowd(room: Path) -> None:
    files = [p for p in MODULES if p.parent == room]
    assert len(files) <= MOST_FILES
    about = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert about
    if identify(room) in BELOW:
        assert "refuses to" in about, "a room's __init__ says what it refuses to know"


def test_the_loop_has_few_doors() -> None:
    entries = {p.name for p in (ROOT / "components").iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= MOST_ENTRIES


def test_no_file_grows_beyond_reading() -> None:
    for path in (p for p in SOURCES if package_of(p) not in ("tests", "kernels")):
        assert len(path.read_text().splitlines()) <= MOST_LINES, identify(path)


def test_a_module_has_tests_of_its_name() -> None:
    for path in MODULES:
        module = path.relative_to(ROOT)
        named = ELSEWHERE.get(str(module), str(module.with_name(f"test_{path.name}")))
        assert (ROOT / "tests" / named).is_file(), named


def test_a_test_file_is_of_a_module_or_says_what_it_holds() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = path.relative_to(ROOT / "tests").with_name(path.name.removeprefix("test_"))
        about = ast.get_docstring(ast.parse(path.read_text()))
        assert (ROOT / module).is_file() or about, identify(path)


def test_a_shim_of_the_pipeline_is_short() -> None:
    tree = ast.parse((ROOT / "components/loop/pipeline.py").read_text())
    shims = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "component" for d in node.decorator_list)
    }
    assert len(shims) == 12
    assert {name: lines for name, lines in shims.items() if lines > SHIM_LINES} == {}


def test_the_walk_sees_every_import(tmp_path: Path) -> None:
    """The checks above stand on `imports`; it must see lazy, relative and aliased ones."""
    path = tmp_path / "kernels" / "loader" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b as c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def k():\n    import model\n    from serving.x import y\n"
    )
    assert list(imports(path, tmp_path)) == [
        "a.b", "d.e", "kernels.loader.f", "kernels.g.h", "model", "serving.x.y",
    ]  # fmt: skip
