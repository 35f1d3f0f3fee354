# SPDX-License-Identifier: Apache-2.0
"""Paths are data: a root, a log and a configuration may lie in folders of any name, and nothing
beside them is read or written. (The whole loop in a root of every name: test_daily.py.)
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components.features.online import materialize, online_histories
from components.features.store import open_store
from components.layout.paths import Layout
from components.log.sources import detect_source
from feature_repo.specs import KUAIRAND, SIMULATOR
from serving.history import decode_history
from serving.transformer.store_client import StoreClient
from tests.components.log.sources.test_kuairand import write_csv, write_partial
from tests.components.log.sources.test_parquet import write_own
from tests.log_builders import build_run, random_log, small_config, small_spec
from tests.loop_builders import digests, online_rows
from tests.path_builders import DUCKDB, FEAST, OTHERS, URIS, YAML, around, nested

PROJECT = Path(__file__).parent.parent
READERS = {"yaml": YAML, "feast": FEAST, "duckdb": DUCKDB, "uris": URIS, "others": OTHERS}


@pytest.fixture(autouse=True)
def _expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the names of tests.path_builders.FEAST stand for, to who takes them for variables."""
    monkeypatch.setenv("EXPANDED", str(tmp_path / "expanded"))


def test_a_root_of_any_name_holds_what_a_plain_one_does(tmp_path: Path) -> None:
    spec = small_spec("simulator")
    config, log = small_config(spec), random_log(spec, 4)
    kept = {}
    roots = {"plain": ("root",), "readers": (*YAML, *FEAST, *DUCKDB), "others": (*URIS, *OTHERS)}
    for reader, names in roots.items():
        home = tmp_path / reader
        layout = Layout.at(nested(home, names))
        # Neighbours that a reader would end up at, or read as well.
        for part in ("x", "a", "axb", "abd", "home"):
            (home / part).mkdir(exist_ok=True)
        before = around(layout.root, tmp_path)
        days = build_run(layout, log, config)
        materialize(layout, days[-1], config)
        assert around(layout.root, tmp_path) == before, reader
        client = StoreClient(layout.feast, spec)
        value = client.read("history", [(1,)])[0].value
        assert value == online_histories(open_store(layout, config), [1])[1]
        assert decode_history(value, spec).member_id == 1
        kept[reader] = digests(layout.root, "features"), online_rows(layout)
    assert all(found == kept["plain"] for found in kept.values())


@pytest.mark.parametrize("reader", READERS)
def test_a_log_in_folders_of_any_name_is_brought_as_from_a_plain_one(
    tmp_path: Path, reader: str
) -> None:
    plain, odd = tmp_path / "plain", nested(tmp_path / "odd", READERS[reader])
    for name, write, spec in (
        ("own", write_own, SIMULATOR),
        ("csv", write_csv, KUAIRAND),
        ("partial", write_partial, KUAIRAND),
    ):
        found = []
        for home in (plain, odd):
            (home / name).mkdir(parents=True)
            written = write(home / name)
            layout = Layout.at(home / f"root of {name}")
            data = written if isinstance(written, Path) else home / name
            detect_source(data).load(data, layout, spec)
            found.append(digests(layout.root, "raw"))
        assert found[0] == found[1]
        assert found[0]


def test_a_log_is_not_read_with_its_neighbours(tmp_path: Path) -> None:
    """duckdb would take `a?b` and `a*b` for both folders."""
    from components.log.sources.kuairand import import_kuairand

    found = []
    for name in ("plain", "aXb", "a?b", "a*b"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name)
        layout = Layout.at(tmp_path / "roots" / name)
        import_kuairand(tmp_path / name, layout)
        found.append(digests(layout.root, "raw"))
    assert all(digest == found[0] for digest in found)


def test_a_relative_root_that_looks_like_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~no such user", "s3:x", "-x", "$EXPANDED", "a%20b"):
        assert Layout.at(name).root == tmp_path / name
        write_own(tmp_path / name)
        assert detect_source(name).name == "parquet"
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    assert Layout.at("~/runs").root == tmp_path / "mine" / "runs"


def test_a_name_that_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    with pytest.raises(ValueError, match=r"\\xff\\xfe' is no UTF-8 text"):
        Layout.at(root)
    assert list(tmp_path.iterdir()) == []


def plain() -> dict[str, str]:
    """The environment without what a make that runs these tests tells the makes below it."""
    ours = ("FEEDSR_", "MAKE", "MFLAGS", "ARGS", "ROOT", "DATA", "CONFIG", "MEMBER", "DAYS")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}


@pytest.mark.parametrize("name", ["$(HOME)", "$EXPANDED", "a b", "it's", '"', "$$", "#x", "`x`"])
def test_make_passes_paths_on_as_they_are(tmp_path: Path, name: str) -> None:
    stub = tmp_path / "feedsr"
    stub.write_text('#!/bin/sh\nprintf "%s|" "$FEEDSR_ROOT" "$@"\n')
    stub.chmod(0o755)
    ready = tmp_path / "ready"
    ready.touch()

    def made(*words: str) -> str:
        command = ["make", "-s", "-o", str(ready), f"BIN={tmp_path}", f"READY={ready}", *words]
        return subprocess.run(
            command, cwd=PROJECT, env=plain(), capture_output=True, text=True, check=True
        ).stdout

    assert made("serve", f"ROOT={name}") == f"{name}|serve|"
    assert made("rank", f"ROOT={name}", "MEMBER=3") == f"{name}|rank|--member|3|"
    demo = made("demo", f"DATA={name}", f"CONFIG={name}.json", "DAYS=4")
    assert demo.endswith(f"|demo|--days|4|--data={name}|--config={name}.json|")


def test_make_without_paths_names_none(tmp_path: Path) -> None:
    stub = tmp_path / "feedsr"
    stub.write_text('#!/bin/sh\nprintf "%s|" "$FEEDSR_ROOT" "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "ready").touch()
    variables = [f"BIN={tmp_path}", f"READY={tmp_path / 'ready'}"]
    command = ["make", "-s", "-o", str(tmp_path / "ready"), *variables]
    for target, told in (("demo", "|demo|"), ("serve", "runs/demo|serve|")):
        found = subprocess.run(
            [*command, target],
            cwd=PROJECT,
            env=plain(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == told
