# SPDX-License-Identifier: Apache-2.0
"""The pages' links: each leads somewhere, on a code host and in the site that mkdocs builds.

`python docs/hooks.py` checks every Markdown file of the repository in milliseconds. In a build of
the site a room's README becomes a page, and a link to a source becomes its path in code, because
the site has no copy of the code. Knows nothing of what the pages say.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"build", "dist", "runs", "shared", "node_modules", "__pycache__"}
"""Folders of the repository that hold no page; so do those whose name begins with a dot."""
AT_A_GLANCE = "overview.md"
"""README.md in the site, where index.md is the home."""

FENCE = re.compile(r"^ *(```+|~~~+)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$")
ID = re.compile(r'<\w+[^>]*? (?:id|name)="([^"]+)"')
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
TARGET = re.compile(
    r'\]\(<?([^)\s>]+)>?(?: +"[^"]*")?\)|(?:href|src)="([^"]+)"|^ *\[[^]]+\]: +(\S+)'
)
LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)")
ANCHOR = re.compile(r'<a href="(?P<to>[^"]+)">(?P<text>.*?)</a>')
LIST_ITEM = re.compile(r"^ *(?:[-*+]|\d+\.) ")


def slug(title: str, separator: str = "-") -> str:
    """A heading's anchor as code hosts make it, so that a link to it holds in the site as well."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", separator)


def pages(root: Path) -> list[Path]:
    """Every Markdown file of the repository."""
    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [n for n in inner if n not in ELSEWHERE and not n.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(".md")]
    return sorted(found)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are no code and no comment, with their numbers."""
    fence = ""
    blank = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), text)
    for number, line in enumerate(blank.splitlines(), 1):
        mark = FENCE.match(line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            yield number, line


def anchors(text: str) -> set[str]:
    """The anchors of a page: its headings', and those that HTML declares."""
    names: set[str] = set()
    for _, line in prose(text):
        names.update(ID.findall(line))
        if heading := HEADING.match(line):
            name, again = slug(heading[1]), 0
            while (own := f"{name}-{again}" if again else name) in names:
                again += 1
            names.add(own)
    return names


def targets(text: str) -> Iterator[tuple[int, str]]:
    """Where a page's links and pictures lead, as written, with the line's number."""
    for number, line in prose(text):
        for match in TARGET.finditer(CODE.sub("", line)):
            yield number, next(filter(None, match.groups()))


def is_elsewhere(target: str) -> bool:
    """Whether a target is another site's, which nobody here can check."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*:|//", target))


def broken(root: Path) -> list[str]:
    """What is wrong with the links of every page, a sentence each."""
    return [
        f"{page.relative_to(root)}:{wrong}" for page in pages(root) for wrong in _wrong(page, root)
    ]


def _wrong(page: Path, root: Path) -> Iterator[str]:
    """What is wrong in one page, behind the line's number."""
    text = page.read_text()
    for number, target in targets(text):
        path, _, anchor = target.partition("#")
        goal = page.parent / path if path else page
        if is_elsewhere(target):
            continue
        if target.startswith("/") or not goal.exists() or not _is_ours(goal, root):
            yield f"{number}: {target} leads nowhere"
        elif anchor and anchor not in _anchors_of(goal):
            yield f"{number}: {path or 'this page'} has no heading #{anchor}"
    for number in _glued_lists(text):
        yield f"{number}: a list follows prose without an empty line, which the site shows as prose"


def _is_ours(goal: Path, root: Path) -> bool:
    """Whether a path is the repository's: neither outside it nor something that was made."""
    real = goal.resolve()
    if not real.is_relative_to(root.resolve()):
        return False
    return not ELSEWHERE.intersection(real.relative_to(root.resolve()).parts)


def _anchors_of(goal: Path) -> set[str]:
    """The anchors of what a link leads to; a folder shows its README."""
    page = goal / "README.md" if goal.is_dir() else goal
    return anchors(page.read_text()) if page.suffix == ".md" and page.is_file() else set()


def _glued_lists(text: str) -> Iterator[int]:
    """Lines where a list begins right beneath a line of prose."""
    above = ""  # the first line of the paragraph
    for number, line in prose(text):
        if above and LIST_ITEM.match(line) and not LIST_ITEM.match(above):
            yield number
            above = line
        ends = not line.strip() or HEADING.match(line)
        above = "" if ends else above or line


def for_site(text: str, place: str, site: dict[str, str]) -> str:
    """A page with its links as the site has them.

    Args:
        text: the page's Markdown.
        place: its path in the repository.
        site: the path in the site's sources of each file that the site has, by that in the
            repository.
    """

    def led(match: re.Match[str]) -> str:
        return _led(match, place, site)

    def anchored(match: re.Match[str]) -> str:
        link = _led(match, place, site)
        page = re.sub(r"(README)?\.md", lambda end: "index.html" if end[1] else ".html", link)
        return page if link.startswith("<a ") else match["text"]

    lines = text.splitlines()
    for number, _ in prose(text):
        lines[number - 1] = ANCHOR.sub(anchored, LINK.sub(led, lines[number - 1]))
    return "\n".join(lines) + "\n"


def _led(match: re.Match[str], place: str, site: dict[str, str]) -> str:
    """A link to what the site has, relative to the page; to anything else, its text and path."""
    path, mark, anchor = match["to"].partition("#")
    if is_elsewhere(path) or not path:
        return match[0]
    goal = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
    goal = next((g for g in (goal, f"{goal}/README.md") if g in site), goal)
    if goal in site:
        own = posixpath.dirname(site[place]) or "."
        to = posixpath.relpath(site[goal], own) + mark + anchor
        return match[0].replace(match["to"], to)
    if not (ROOT / goal).exists():
        return match[0]  # the build warns of it, and so ends
    text = match["text"]
    if goal.endswith(text.strip("`/")):
        return f"`{goal}`"
    return text if "`" in text else f"{text} (`{goal}`)"


def _in_site(page: Path) -> str:
    """Where the site has a page of the repository."""
    path = page.relative_to(ROOT)
    if path.parts[0] == "docs":
        return path.relative_to("docs").as_posix()
    return AT_A_GLANCE if path.name == path.as_posix() == "README.md" else path.as_posix()


def _rooms() -> list[Path]:
    """The READMEs of rooms, and the pages at the root."""
    return [page for page in pages(ROOT) if page.relative_to(ROOT).parts[0] != "docs"]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors as code hosts make them; every room's README in the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    rooms = [page for page in _rooms() if page.parent != ROOT]
    nav = [{str(room.parent.relative_to(ROOT)): _in_site(room)} for room in rooms]
    config.nav = [*(config.nav or []), {"Rooms": nav}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for page in _rooms():
        files.append(File.generated(config, _in_site(page), abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page's links, as the site has them."""
    site = {
        Path(file.abs_src_path).relative_to(ROOT).as_posix(): file.src_uri
        for file in files
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(ROOT)
    }
    places = {uri: place for place, uri in site.items()}
    return for_site(markdown, places[page.file.src_uri], site)


def main() -> int:
    """Names what is broken, and says so with the exit code."""
    wrong = broken(ROOT)
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
