# SPDX-License-Identifier: Apache-2.0
"""Paths as data: any name that a file system takes, for readers that see more than a name in it.

duckdb reads a path as a pattern, SQL ends a text at a quote, Feast reads its declaration as YAML in
which it has put variables. It knows those three, and nothing of what is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

NO_BACKSLASH = "]-\x7f\x01-[\u00c0-\U00100000"
"""Every byte but a backslash, in a character class of duckdb's, which goes by bytes: it parts a
pattern at a backslash as at a slash, so none can be written out.
"""
PATTERN = {"*": "[*]", "?": "[?]", "[": "[[]", "\\": f"[!{NO_BACKSLASH}]"}

SECRETS = ("FEEDSR_REDIS_PASSWORD",)
"""Variables that Feast itself replaces, whenever it reads a declaration: in no file in clear."""

HADOOP = frozenset("\\*?[]{}^,")
"""What Hadoop reads as part of a pattern."""


def duckdb_pattern(path: Path | str) -> str:
    """The pattern of duckdb's that this path alone matches."""
    return "".join(PATTERN.get(character, character) for character in str(path))


def duckdb_files(paths: Iterable[Path | str]) -> str:
    """These very files, as the SQL list that `read_parquet` and `read_csv` take."""
    texts = (duckdb_pattern(path).replace("'", "''") for path in paths)
    return "[" + ", ".join(f"'{text}'" for text in texts) + "]"


def duckdb_parquet(paths: Iterable[Path | str]) -> str:
    """These very Parquet files as an SQL table; a folder's `name=value` is no column of it."""
    return f"read_parquet({duckdb_files(paths)}, hive_partitioning = false)"


def hadoop_pattern(path: Path | str) -> str:
    """The pattern of Hadoop's, as Spark reads it, that this path alone matches."""
    return "".join(f"\\{c}" if c in HADOOP else c for c in str(path))


def feast_yaml(values: Any) -> str:
    """YAML that Feast reads as these values.

    It replaces `$NAME` in the text before it reads YAML, so no `$` is written out: a text with one
    is quoted, as is all that is no plain word, and in quotes YAML knows an escape for it. Those of
    `SECRETS` stay names.
    """
    text = yaml.dump(values, Dumper=_Quoting, sort_keys=False, width=math.inf)
    text = text.replace("$", "\\x24")
    for name in SECRETS:
        text = text.replace(f"\\x24{{{name}}}", f"${{{name}}}")
    return text


class _Quoting(yaml.SafeDumper):
    """Quotes every text that is not plainly a name or a path."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text.isascii() and text[:1].isalpha() and text.replace("_", "").isalnum()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Quoting.add_representer(str, _text)
