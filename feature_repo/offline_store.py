# SPDX-License-Identifier: Apache-2.0
"""Feast's duckdb store over the files of the run that a repository lies in, wherever that is now.

The registry keeps where a view's files were when it was applied. A run that was copied or moved
since reads its own: `feature_store.yaml` says where the run is, from its own folder.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob

from feature_repo.quoting import duckdb_pattern
from feature_repo.sources import source_pattern

INSIDE = 3
"""How many names of a source's path are within its run: `features/<view>/<files>`."""


class RunOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The `offline_store` of `feature_store.yaml`.

    Attributes:
        root: the run; relative to the folder of `feature_store.yaml` where it is not absolute.
    """

    type: str = "feature_repo.offline_store.RunOfflineStore"
    root: str


class RunOfflineStore(DuckDBOfflineStore):
    """Reads the files of the run at `root`."""

    @staticmethod
    def get_historical_features(  # type: ignore[override]
        config: RepoConfig, feature_views: list[FeatureView], *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """Point-in-time rows; see Feast's store."""
        own = [_own_view(view, config) for view in feature_views]
        return DuckDBOfflineStore.get_historical_features(config, own, *args, **kwargs)

    @staticmethod
    def pull_latest_from_table_or_query(  # type: ignore[override]
        config: RepoConfig, data_source: DataSource, *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """The newest row of each key; see Feast's store."""
        own = _own_source(data_source, config)
        return DuckDBOfflineStore.pull_latest_from_table_or_query(config, own, *args, **kwargs)

    @staticmethod
    def pull_all_from_table_or_query(  # type: ignore[override]
        config: RepoConfig, data_source: DataSource, *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """Every row; see Feast's store."""
        own = _own_source(data_source, config)
        return DuckDBOfflineStore.pull_all_from_table_or_query(config, own, *args, **kwargs)


def own_pattern(source: DataSource | None, config: RepoConfig) -> str:
    """The files of a source in the run that the repository is of, as a pattern of duckdb's."""
    pattern = source_pattern(source)
    root = getattr(config.offline_store, "root", None)
    if root is None:
        return pattern
    home = os.path.normpath(Path(config.repo_path or ".").absolute() / root)
    return "/".join([duckdb_pattern(home), *pattern.split("/")[-INSIDE:]])


def _own_view(view: FeatureView, config: RepoConfig) -> FeatureView:
    own = copy.copy(view)
    own.batch_source = _own_source(view.batch_source, config)
    return own


def _own_source(source: DataSource | None, config: RepoConfig) -> DataSource:
    assert isinstance(source, FileSource), "the views of a run read files"
    own = FileSource.from_proto(source.to_proto())
    own.file_options.uri = own_pattern(source, config)
    return own
