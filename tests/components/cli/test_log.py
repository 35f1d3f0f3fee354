# SPDX-License-Identifier: Apache-2.0
"""Bringing a log: what is asked for is written, and the root remembers its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.config import load_config
from components.layout.files import write_parquet
from components.layout.paths import Layout
from feature_repo.spec import Spec
from tests.components.cli.conftest import Feedsr
from tests.raw_builders import digest, make_impressions, make_members, make_posts

SMALL = ("--members", "20", "--impressions", "400")
DAY = "2026-01-05"


def own_log(folder: Path, spec: Spec) -> Path:
    """A folder of Parquet as a user would bring it."""
    write_parquet(folder / "impressions-1.parquet", make_impressions(spec, DAY, 40))
    write_parquet(folder / "posts.parquet", make_posts(spec, 64))
    write_parquet(folder / "members.parquet", make_members(spec, 7))
    return folder


def test_a_log_is_simulated_as_it_is_asked_for(feedsr: Feedsr, tmp_path: Path) -> None:
    root = tmp_path / "root"
    ended = feedsr("simulate", "--days", "2", *SMALL, "--root", root)
    layout = Layout.at(root)
    first, last = layout.raw_days()
    assert " impressions of 20 members and " in ended.out
    assert f", {first} to {last}, in {root}/raw" in ended.out
    assert pq.read_metadata(layout.raw_members).num_rows == 20
    rows = sum(pq.read_metadata(layout.raw_day(day)).num_rows for day in (first, last))
    assert ended.out.startswith(f"{rows:,} impressions ")
    assert json.loads((root / "config.json").read_text())["config"] == "demo"


def test_a_log_is_its_seed_s(feedsr: Feedsr, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        words = ["--days", "2", *SMALL, "--seed", seed, "--root", tmp_path / name]
        assert feedsr("simulate", *words).status == 0
    first, again, other = (digest(tmp_path / name / "raw") for name in "abc")
    assert first == again != other


def test_a_log_at_home_is_brought_by_its_tilde(
    feedsr: Feedsr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own_log(tmp_path / "log", load_config("demo").spec)
    ended = feedsr("import", "~/log", "--root", tmp_path / "root")
    assert ended.out.startswith("40 impressions of 7 members and 64 posts, ")


@pytest.mark.parametrize("config", ["", "kuairand"])
def test_a_log_of_one_s_own_is_brought_and_its_configuration_remembered(
    feedsr: Feedsr, tmp_path: Path, config: str
) -> None:
    name = config or "demo"
    data = own_log(tmp_path / "log", load_config(name).spec)
    words = ["--config", config] if config else []
    ended = feedsr("import", data, *words, "--root", tmp_path / "root")
    assert ended.out.startswith("40 impressions of 7 members and 64 posts, ")
    assert ended.out.endswith(f"in {tmp_path}/root/raw, ignored_columns: 0\n")
    assert json.loads((tmp_path / "root" / "config.json").read_text())["config"] == name
    assert feedsr("ingest", "--root", tmp_path / "root").out.startswith(f"ingest {DAY}: 1 days")


def test_the_columns_of_a_log_are_those_of_the_configuration_s_spec(feedsr: Feedsr) -> None:
    demo, kuairand = feedsr("columns"), feedsr("columns", "--config", "kuairand")
    for ended, name in ((demo, "demo"), (kuairand, "kuairand")):
        spec = load_config(name).spec
        lines = ended.out.splitlines()
        assert [line for line in lines if not line.startswith("  ")] == [
            "impressions*.parquet",
            "posts.parquet",
            "members.parquet",
        ]
        told = [line.split()[0] for line in lines if line.startswith("  ")]
        schemas = (spec.impression_schema, spec.post_schema, spec.member_schema)
        assert told == [name for schema in schemas for name in schema.names]
    assert demo.out != kuairand.out
    assert "  member_id        int64\n" in demo.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["import", "nowhere"], "there is no folder nowhere"),
        (["import", "."], "holds no log that is known"),
        (["simulate", "--config", "kuairand"], "not for the simulator"),
    ],
)
def test_a_mistake_is_one_sentence(
    feedsr: Feedsr, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in feedsr(*words, "--root", tmp_path / "root").sentence
    assert not (tmp_path / "root" / "config.json").exists()


def test_the_log_of_another_source_than_the_configuration_s_is_refused(
    feedsr: Feedsr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.log.sources import SOURCES, Source

    def never(*_: object) -> None:
        raise AssertionError("it was read")

    theirs = Source(name="theirs", spec_name="kuairand", matches=Path.is_dir, load=never)  # type: ignore[arg-type]
    monkeypatch.setattr("components.log.sources.SOURCES", (theirs, *SOURCES))
    told = feedsr("import", tmp_path, "--config", "demo", "--root", tmp_path / "root").sentence
    assert told == (
        f"{tmp_path} holds theirs's log and configuration demo is for simulator; "
        "use --config kuairand"
    )


def test_a_place_that_cannot_be_written_is_one_sentence(feedsr: Feedsr, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told = feedsr("simulate", "--days", "2", *SMALL, "--root", tmp_path / "file" / "root").sentence
    assert told.startswith(f"{tmp_path / 'file'}")
    assert "not a directory; look at the path" in told
