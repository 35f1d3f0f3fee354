# SPDX-License-Identifier: Apache-2.0
"""Names of folders that mean something to a reader of paths, and what must stay as it was."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

YAML = (
    "x #y",
    "a: b",
    "- a",
    "&a *a !a",
    "%a",
    "@a",
    "`a`",
    "{a: b}",
    "[a, b]",
    "'",
    '"',
    "a'b\"c",
    "|-",
    "> a",
    "tab\tx",
    "two\nlines",
    "é ☃ 😀",
    " lead",
    "trail ",
    "null",
    "1e3",
    "\x01\x7f\x85\u2028",
    "...",
    "#",
)
FEAST = ("$EXPANDED", "${EXPANDED}", "$$EXPANDED", "a$b", "${", "$", "%EXPANDED%", "\\$EXPANDED")
DUCKDB = (
    "a*b",
    "**",
    "a?b",
    "a[bc]d",
    "[!x]",
    "[a-z]",
    "[",
    "]",
    "[]]",
    "a'b",
    "a\\b",
    "\\",
    "\\[x",
    "a\\\\b",
    "day=3",
    "a;b -- c",
)
URIS = ("a:b", "http:", "s3:", "file:", "a%20b", "a?mode=ro#x", "~", "~nobody", "-x", "--root")
OTHERS = ("{{$}}", "{{$.inputs}}", "{{ day }}", "<b>&amp;", "[/red]", "[bold]", ":smile:", "a|b&c")
NAMES = (*YAML, *FEAST, *DUCKDB, *URIS, *OTHERS)


def nested(home: Path, names: tuple[str, ...]) -> Path:
    """A folder under all of these names, one in the other."""
    folder = reduce(Path.__truediv__, names, home)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def around(root: Path, within: Path) -> dict[str, bytes | None]:
    """Everything within a folder but what lies in the root: a file's bytes, None of a folder."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in within.rglob("*")
        if path != root and root not in path.parents
    }
