# SPDX-License-Identifier: Apache-2.0
"""Where every file of a run lives, and what a path that a person wrote stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from components.layout.aside import aside


@dataclass(frozen=True)
class Layout:
    """The paths under one run's root; nothing is created until a step writes."""

    root: Path

    @classmethod
    def at(cls, root: str | Path) -> Layout:
        """A layout at an absolute path.

        Raises:
            ValueError: a name that is no UTF-8 text, which Feast's registry cannot hold.
        """
        path = absolute(root)
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{os.fsencode(path)!r} is no UTF-8 text, and Feast's registry holds no other: "
                "choose another name for the root"
            ) from error
        return cls(path)

    def raw_day(self, day: str) -> Path:
        """The impressions that arrived on a day, as the source wrote them."""
        return self.root / "raw" / f"day={day}" / "impressions.parquet"

    @property
    def raw_posts(self) -> Path:
        """Posts, as the source wrote them."""
        return self.root / "raw" / "posts.parquet"

    @property
    def raw_members(self) -> Path:
        """Members, as the source wrote them."""
        return self.root / "raw" / "members.parquet"

    def impressions_day(self, day: str) -> Path:
        """The checked impressions that arrived on a day."""
        return self.root / "impressions" / f"day={day}" / "part.parquet"

    def impression_days(self) -> list[str]:
        """The days that were ingested, in order."""
        return sorted(p.parent.name[4:] for p in self.root.glob("impressions/day=*/part.parquet"))

    def raw_days(self) -> list[str]:
        """The days a source wrote, in order."""
        return sorted(p.parent.name[4:] for p in self.root.glob("raw/day=*/impressions.parquet"))

    def quarantine_day(self, day: str) -> Path:
        """The rows of a day that ingest refused, with the reason."""
        return self.root / "quarantine" / f"day={day}" / "part.parquet"

    def ingest_counts(self, day: str) -> Path:
        """What ingest read, removed, refused and kept of a day."""
        return self.root / "ingest" / f"day={day}.json"

    @property
    def posts(self) -> Path:
        """The checked posts table."""
        return self.root / "posts.parquet"

    @property
    def members(self) -> Path:
        """The checked members table."""
        return self.root / "members.parquet"

    def feature_dir(self, view: str) -> Path:
        """The offline rows of one feature view, a Parquet file a day."""
        return self.root / "features" / view

    def feature_day(self, view: str, day: str) -> Path:
        """The offline rows of one feature view as of the end of a day."""
        return self.feature_dir(view) / f"day={day}.parquet"

    def state(self, name: str) -> Path:
        """What a step keeps for the next day, by the view or the kind of it."""
        return self.root / "state" / name

    def history_bucket(self, bucket: int) -> Path:
        """The newest history value of each member of a bucket, which is its state as well."""
        return self.feature_dir("history") / f"bucket={bucket:05d}.parquet"

    def dropped_day(self, day: str) -> Path:
        """The impressions that windows dropped on a day, a Parquet file a bucket."""
        return self.state("dropped") / f"day={day}"

    def dropped_bucket(self, day: str, bucket: int) -> Path:
        """The impressions that the windows of a bucket dropped on a day."""
        return self.dropped_day(day) / f"bucket={bucket:05d}.parquet"

    def history_buckets(self) -> list[Path]:
        """The files of history values that there are, in order."""
        return sorted(self.feature_dir("history").glob("bucket=*.parquet"))

    @property
    def feast(self) -> Path:
        """The rendered Feast repository with its registry and local online store."""
        return self.root / "feast"

    def sequences(self, split: str, day: str) -> Path:
        """The folder of shards of a split ("train" or "eval") of a day's run."""
        return self.root / "sequences" / f"{split}-{day}"

    def run(self, day: str) -> Path:
        """Everything a day's run makes beside the shared tables."""
        return self.root / "runs" / day

    def checkpoints(self, day: str, ranker: str) -> Path:
        """The checkpoints of one ranker's training in a day's run."""
        return self.run(day) / "checkpoints" / ranker

    def model(self, day: str, ranker: str) -> Path:
        """The trained weights of one ranker of a day's run."""
        return self.run(day) / ranker

    @property
    def registry(self) -> Path:
        """The registry of immutable model versions."""
        return self.root / "registry"

    def requests_day(self, day: str) -> Path:
        """The folder of the serving requests logged on a day."""
        return self.root / "requests" / f"day={day}"


def absolute(path: str | Path) -> Path:
    """The absolute path of what a person wrote.

    A leading `~` or `~user` is the home of a user that there is, and else a name like any other.
    """
    written = Path(path)
    with suppress(RuntimeError):
        written = written.expanduser()
    return written.resolve()


@contextmanager
def path_without(text: str, path: str) -> Iterator[str]:
    """The path, or a link of a plain name to it where it holds a text.

    For a reader that takes the text for something of its own, and knows no escape for it.
    """
    if text not in path:
        yield path
        return
    with aside("link") as folder:
        link = folder / "link"
        link.symlink_to(path)
        yield str(link)
