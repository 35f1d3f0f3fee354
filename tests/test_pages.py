# SPDX-License-Identifier: Apache-2.0
"""The pages: every link of every Markdown file leads somewhere, and what the site makes of one."""

from pathlib import Path

import pytest

from tests.script_loader import ROOT, load

hooks = load("docs/hooks.py")


def test_every_link_of_every_page_leads_somewhere() -> None:
    assert hooks.broken(ROOT) == []


def test_the_front_page_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def repository(root: Path, page: str) -> list[str]:
    """What is wrong with the links of a page in a small repository."""
    (root / "room").mkdir()
    (root / "room" / "README.md").write_text("# Room\n\n## A door, open\n")
    (root / "room" / "code.py").write_text("")
    (root / "page.md").write_text(page)
    found: list[str] = hooks.broken(root)
    return found


@pytest.mark.parametrize(
    "link",
    [
        "[a](room/README.md)",
        "[a](room/README.md#a-door-open)",
        "[a](room/#room)",
        "[`a`](room/code.py)",
        "[a](#here)",
        "![a](room/code.py)",
        "[![a](room/code.py)](room/)",
        '<a href="room/">a</a>',
        "[a](https://example.org/nothing#where)",
        "`[a](nowhere.md)`",
        "```\n[a](nowhere.md)\n```",
        "<!-- [a](nowhere.md) -->",
        "[a]\n\n[a]: room/README.md",
    ],
)
def test_a_link_that_leads_somewhere(link: str, tmp_path: Path) -> None:
    assert repository(tmp_path, f"# Here\n\n{link}\n") == []


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("[a](nowhere.md)", "page.md:3: nowhere.md leads nowhere"),
        ("[a](room/README.md#b)", "page.md:3: room/README.md has no heading #b"),
        ("[a](room/#b)", "page.md:3: room/ has no heading #b"),
        ("[a](room/code.py#b)", "page.md:3: room/code.py has no heading #b"),
        ("[a](#there)", "page.md:3: this page has no heading #there"),
        ("![a](room/a.png)", "page.md:3: room/a.png leads nowhere"),
        ("[![a](room/a.png)](room/)", "page.md:3: room/a.png leads nowhere"),
        ('<a href="hall/">a</a>', "page.md:3: hall/ leads nowhere"),
        ("[a](/room/README.md)", "page.md:3: /room/README.md leads nowhere"),
        ("[a]: hall/README.md", "page.md:3: hall/README.md leads nowhere"),
        ("`b` [a](nowhere.md)", "page.md:3: nowhere.md leads nowhere"),
    ],
)
def test_a_link_that_leads_nowhere(link: str, says: str, tmp_path: Path) -> None:
    assert repository(tmp_path, f"# Here\n\n{link}\n") == [says]


def test_what_lies_outside_the_repository_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n")
    (tmp_path / "own").mkdir()
    assert repository(tmp_path / "own", "[a](../other.md)\n") == [
        "page.md:1: ../other.md leads nowhere"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("It has:\n- one\n- two\n", 2),
        ("It has:\n\n- one\n- two\n", None),
        ("- one\n  and more\n- two\n", None),
        ("# Title\n- one\n", None),
        ("It has:\n1. one\n", 2),
        ("| a |\n|---|\n| b |\n\n- one\n", None),
    ],
)
def test_a_list_beneath_prose_wants_an_empty_line(text: str, line: int | None) -> None:
    assert list(hooks._glued_lists(text)) == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("title", "anchor"),
    [
        ("The rooms", "the-rooms"),
        (
            "2026-11-25: A set that knows the day (dropped)",
            "2026-11-25-a-set-that-knows-the-day-dropped",
        ),
        ("What `feedsr` does", "what-feedsr-does"),
        ("In / out", "in--out"),
        ("A [link](to.md) in it", "a-link-in-it"),
        ("snake_case", "snake_case"),
    ],
)
def test_anchors_are_those_of_code_hosts(title: str, anchor: str) -> None:
    assert hooks.slug(title) == anchor


def test_a_second_heading_of_a_name_is_numbered() -> None:
    assert hooks.anchors("# A\n\n## B\n\n## B\n") == {"a", "b", "b-1"}


SITE = {
    "README.md": "overview.md",
    "docs/serving.md": "serving.md",
    "docs/pictures/feed.png": "pictures/feed.png",
    "serving/README.md": "serving/README.md",
}


@pytest.mark.parametrize(
    ("place", "link", "shown"),
    [
        ("README.md", "[a](docs/serving.md#x)", "[a](serving.md#x)"),
        ("README.md", "![a](docs/pictures/feed.png)", "![a](pictures/feed.png)"),
        ("README.md", "[a](serving/)", "[a](serving/README.md)"),
        ("README.md", '<a href="serving/">a</a>', '<a href="serving/index.html">a</a>'),
        ("README.md", '<a href="docs/serving.md#x">a</a>', '<a href="serving.html#x">a</a>'),
        ("README.md", '<a href="model/">a</a>', "a"),
        ("docs/serving.md", "[a](../README.md)", "[a](overview.md)"),
        ("docs/serving.md", "[the wire](../serving/wire.py)", "the wire (`serving/wire.py`)"),
        ("docs/serving.md", "[`wire.py`](../serving/wire.py)", "`serving/wire.py`"),
        ("docs/serving.md", "[model](../model/)", "`model`"),
        ("docs/serving.md", "[the hall](../hall/)", "[the hall](../hall/)"),
        ("docs/serving.md", "[`known`](../serving/history.py)", "`known`"),
        ("serving/README.md", "[a](../docs/serving.md)", "[a](../serving.md)"),
        ("serving/README.md", "[a](https://example.org)", "[a](https://example.org)"),
        ("serving/README.md", "[a](#x)", "[a](#x)"),
        ("serving/README.md", "in `<!-- a -->`", "in `<!-- a -->`"),
        ("serving/README.md", "```\n[a](../model/x.py)\n```", "```\n[a](../model/x.py)\n```"),
    ],
)
def test_a_link_in_the_site(place: str, link: str, shown: str) -> None:
    assert hooks.for_site(link, place, SITE) == f"{shown}\n"
