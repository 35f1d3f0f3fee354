# SPDX-License-Identifier: Apache-2.0
"""What both faces ask about models: which there are, which version answers, and whether it does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kserve import ModelRepository

from serving.errors import NotFound
from serving.protocol.data_plane import DataPlane, ServedModel


class Probe(ServedModel):
    """A model that is ready, or not, and may know its version."""

    def __init__(self, name: str, version: str = "", ready: bool = True) -> None:
        super().__init__(name)
        self.version, self.ready = version, ready

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "a", "datatype": "BYTES", "shape": [1]}]


@pytest.fixture
def plane() -> DataPlane:
    models = ModelRepository()
    for model in (Probe("known", "7"), Probe("elsewhere"), Probe("stopped", ready=False)):
        models.update(model)
    return DataPlane(models)


def test_a_model_is_found_by_its_name_alone(plane: DataPlane) -> None:
    assert plane.model("known").name == "known"
    with pytest.raises(NotFound, match="there is no model 'other' here"):
        plane.model("other")


@pytest.mark.parametrize(("name", "version"), [("known", "7"), ("known", ""), ("elsewhere", "")])
def test_the_version_that_answers_may_be_named_or_left_out(
    plane: DataPlane, name: str, version: str
) -> None:
    plane.check_version(name, version)


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("known", "8", "version '8' of known is not served, 7 is"),
        ("elsewhere", "7", "version '7' of elsewhere is not served, the predictor decides which"),
        ("other", "", "there is no model 'other' here"),
    ],
)
def test_another_version_is_not_found(
    plane: DataPlane, name: str, version: str, sentence: str
) -> None:
    with pytest.raises(NotFound, match=sentence):
        plane.check_version(name, version)


def test_metadata_have_the_version_where_it_is_known(plane: DataPlane) -> None:
    known, elsewhere = (asyncio.run(plane.model_metadata(name)) for name in ("known", "elsewhere"))
    assert known["versions"] == ["7"]
    assert "versions" not in elsewhere
    assert known["inputs"] == elsewhere["inputs"] == Probe("x").get_input_types()
    with pytest.raises(NotFound):
        asyncio.run(plane.model_metadata("other"))
    assert plane.metadata()["extensions"] == ["binary_tensor_data"]


def test_a_model_is_ready_or_not_or_not_there(plane: DataPlane) -> None:
    assert asyncio.run(plane.model_ready("known")) is True
    assert asyncio.run(plane.model_ready("stopped")) is False
    with pytest.raises(NotFound):
        asyncio.run(plane.model_ready("other"))
