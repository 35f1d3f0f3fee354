# SPDX-License-Identifier: Apache-2.0
"""The feature service, and everything `feast apply` registers. Declarations only.

`feast apply` reads this file alone (see .feastignore): the environment says which run it is about,
`FEEDSR_ROOT` its root, `FEEDSR_SPEC` the spec's name and `FEEDSR_OFFLINE` what reads its files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from feast import FeatureService

from feature_repo.entities import entities
from feature_repo.sources import Offline
from feature_repo.spec import Spec
from feature_repo.specs import spec_by_name
from feature_repo.views import feature_views

SERVICE = "feed_sr"


def repository(spec: Spec, root: Path, offline: Offline = "duckdb") -> dict[str, Any]:
    """Every Feast object of a run by name; the sources come with the views that read them."""
    views = feature_views(spec, root, offline)
    named: dict[str, Any] = {e.name: e for e in entities(spec).values()}
    named |= {view.name: view for view in views}
    service = FeatureService(name=SERVICE, features=list(views), tags={"spec_hash": spec.hash})
    return {**named, SERVICE: service}


def repository_of_environment() -> dict[str, Any]:
    """The repository that `FEEDSR_ROOT` and `FEEDSR_SPEC` name; nothing where no root is set."""
    root = os.environ.get("FEEDSR_ROOT")
    if not root:
        return {}
    spec = spec_by_name(os.environ.get("FEEDSR_SPEC", "simulator"))
    spark = os.environ.get("FEEDSR_OFFLINE") == "spark"
    return repository(spec, Path(root), "spark" if spark else "duckdb")


globals().update(repository_of_environment())
