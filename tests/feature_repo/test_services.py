# SPDX-License-Identifier: Apache-2.0
"""What `feast apply` registers is derived from the spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView
from feast.types import Bytes

from feature_repo.services import SERVICE, repository, repository_of_environment
from feature_repo.specs import KUAIRAND, SIMULATOR


@pytest.mark.parametrize("spec", [KUAIRAND, SIMULATOR], ids=lambda s: s.name)
def test_every_view_of_the_spec_and_the_history_is_declared(spec):
    objects = repository(spec, Path("/run"))
    views = {n: o for n, o in objects.items() if isinstance(o, FeatureView)}
    assert set(views) == {v.name for v in spec.views} | {"history"}
    for view in spec.views:
        declared = views[view.name]
        assert set(declared.entities) == {key.removesuffix("_id") for key in view.keys}
        assert [(f.name, f.dtype) for f in declared.features] == [("packed", Bytes)]
        assert declared.batch_source.path == f"/run/features/{view.name}/day=*.parquet"
        assert declared.tags["spec_hash"] == spec.hash
    assert views["history"].stream_source.name == "history_push"
    entities = {n for n, o in objects.items() if isinstance(o, Entity)}
    assert entities == {"member", "post", "actor"}
    service = objects[SERVICE]
    assert isinstance(service, FeatureService)
    assert {p.name for p in service.feature_view_projections} == set(views)


def test_the_environment_names_the_run(monkeypatch):
    monkeypatch.delenv("FEEDSR_ROOT", raising=False)
    assert repository_of_environment() == {}
    monkeypatch.setenv("FEEDSR_ROOT", "/somewhere")
    monkeypatch.setenv("FEEDSR_SPEC", "kuairand")
    objects = repository_of_environment()
    assert objects["history"].tags["spec"] == "kuairand"
    assert objects["history"].batch_source.path.startswith("/somewhere/features/history")
    monkeypatch.setenv("FEEDSR_OFFLINE", "spark")
    assert repository_of_environment()["affinity"].batch_source.file_format == "parquet"
    assert repository_of_environment()["affinity"].batch_source.path.startswith("file:///somewhere")
    monkeypatch.setenv("FEEDSR_SPEC", "nothing")
    with pytest.raises(ValueError, match="there is no spec 'nothing'"):
        repository_of_environment()
