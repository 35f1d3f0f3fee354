# SPDX-License-Identifier: Apache-2.0
"""A study's results: one JSON file that grows by a trial at a time.

Several processes may write to it: each reads, adds and replaces it under a lock. It is enough to
know what is done, so a study goes on where it was, on another machine too. Knows no metric.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.backtest.provenance import versions
from components.layout.files import write_json
from components.layout.locks import locked

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """The results of one study.

    Attributes:
        path: the file; it need not be there.
        name: of the study.
        setting: what all entries share, for the reader.
    """

    path: Path
    name: str
    setting: Mapping[str, Any]

    def entries(self) -> dict[str, Entry]:
        """What is done, by row.

        Raises:
            ValueError: the file is no results file of this study.
        """
        return self._read()["rows"]  # type: ignore[no-any-return]

    def seed(self, row: str, seed: int, fingerprint: str) -> Entry | None:
        """The result of a row's seed, or None where it is not done or was another trial."""
        result = self.entries().get(row, {}).get("seeds", {}).get(str(seed))
        return result if result and result["fingerprint"] == fingerprint else None

    def put(self, row: str, about: Mapping[str, Any], seed: int, result: Entry) -> None:
        """Adds the result of one seed to a row.

        Args:
            about: what the row's trials are made of; a row of another description begins anew.
        """
        with locked(self.path.with_name(f".{self.path.name}.lock")):
            whole = self._read()
            old = whole["rows"].get(row, {})
            seeds = old.pop("seeds", {})
            if old != json.loads(json.dumps(about)):
                seeds = {}
            seeds[str(seed)] = result
            whole["rows"][row] = {**about, "seeds": dict(sorted(seeds.items()))}
            whole |= {"date": datetime.date.today().isoformat(), "versions": versions()}
            write_json(self.path, whole)

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return self._nothing_yet()
        try:
            whole: dict[str, Any] = json.loads(self.path.read_bytes())
            is_ours = whole["name"] == self.name and whole["setting"] == dict(self.setting)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no result of a study; name another file") from error
        if not is_ours:
            raise ValueError(
                f"{self.path} holds another study or setting; name another file, or delete it"
            )
        return whole

    def _nothing_yet(self) -> dict[str, Any]:
        hardware = {"cpu": platform.machine(), "cores": os.cpu_count()}
        setting = dict(self.setting)
        return {"name": self.name, "setting": setting, "hardware": hardware, "rows": {}}
