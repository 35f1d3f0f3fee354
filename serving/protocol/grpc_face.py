# SPDX-License-Identifier: Apache-2.0
"""The gRPC face of a model server: the calls of KServe's V2 protocol that read, and no other.

What REST's is in `serving.protocol.rest`, this is for `GRPCInferenceService`.
"""

from __future__ import annotations

from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.utils.utils import to_headers

from serving.errors import NotOffered, bad_input
from serving.protocol.message import from_grpc


class RefusalToStatus(ExceptionToStatusInterceptor):
    """KServe's, without a traceback in the log for a caller's mistake."""

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: ServicerContext, method_name: str
    ) -> None:
        """Ends the call with the status of `ex`."""
        if isinstance(ex, InvalidInput):
            await context.abort(StatusCode.INVALID_ARGUMENT, str(ex))
        await super().handle_exception(ex, request_or_iterator, context, method_name)


class Servicer(InferenceServicer):
    """KServe's, which decodes as REST does here and changes no model."""

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: ServicerContext
    ) -> pb.ModelInferResponse:
        """The model's answer."""
        self._data_plane.check_version(request.model_name, request.model_version)
        with bad_input("the request"):
            message = from_grpc(request)
        model = self._data_plane.model(request.model_name)
        answer, _ = await model(message, to_headers(context))
        return answer.to_grpc()

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: ServicerContext
    ) -> pb.ModelReadyResponse:
        """Whether the model answers."""
        self._data_plane.check_version(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: ServicerContext
    ) -> pb.ModelMetadataResponse:
        """What the model takes and gives."""
        self._data_plane.check_version(request.name, request.version)
        return pb.ModelMetadataResponse(**await self._data_plane.model_metadata(request.name))

    async def RepositoryModelLoad(self, request: Any, context: ServicerContext) -> None:
        """Not offered: a registry decides what is served, not whoever reaches a port."""
        raise NotOffered("models are not loaded over this protocol; promote a version instead")

    async def RepositoryModelUnload(self, request: Any, context: ServicerContext) -> None:
        """Not offered, as `RepositoryModelLoad`."""
        raise NotOffered("models are not unloaded over this protocol; stop the server instead")
