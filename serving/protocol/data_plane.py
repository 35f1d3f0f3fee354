# SPDX-License-Identifier: Apache-2.0
"""What REST and gRPC both ask about models: which there are, and whether and how they answer.

KServe's data plane, without what changes it; it knows no protocol.
"""

from __future__ import annotations

from typing import Any

from kserve import Model
from kserve.protocol import dataplane

from serving.errors import NotFound
from serving.excerpt import excerpt


class ServedModel(Model):
    """A KServe model that may know which version of it answers.

    Attributes:
        version: its name in the registry; "" where another process decides it.
    """

    version: str = ""


class DataPlane(dataplane.DataPlane):
    """KServe's, whose refusals are ours."""

    def metadata(self) -> dict[str, Any]:
        """V2's server metadata, with the extensions that are there."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    def model(self, name: str) -> ServedModel:
        """The model `name`; NotFound if there is none."""
        model = self.model_registry.get_model(name)
        if model is None:
            raise NotFound(f"there is no model {excerpt(name)} here")
        assert isinstance(model, ServedModel)
        return model

    def check_version(self, name: str, version: str) -> None:
        """NotFound unless `version` is "" or the one of model `name` that answers."""
        served = self.model(name).version
        if version not in ("", served):
            instead = f"{served} is" if served else "the predictor decides which is"
            raise NotFound(f"version {excerpt(version)} of {name} is not served, {instead}")

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """V2's metadata of a model, with its version where it is known here."""
        version = self.model(model_name).version
        versions = {"versions": [version]} if version else {}
        return {**await super().model_metadata(model_name), **versions}

    async def model_ready(self, model_name: str, *args: Any, **kwargs: Any) -> bool:
        """Whether the model answers; NotFound if there is none."""
        self.model(model_name)
        return bool(await super().model_ready(model_name, *args, **kwargs))
