# SPDX-License-Identifier: Apache-2.0
"""One V2 call to the predictor, and what it answers over gRPC."""

from __future__ import annotations

import struct

import numpy as np
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from feature_repo.specs import SIMULATOR as SPEC
from serving.launch import NAME, Pair
from serving.wire import encode_candidates
from tests.serving_builders import NOW_MS, Grpc, candidates, history_value, message

HISTORY = history_value(SPEC, 70, 1)
COLUMNS = candidates(SPEC, 5, 8)
CANDIDATES = encode_candidates(SPEC, *COLUMNS)
PARAMETERS = {"request_time_ms": NOW_MS, "spec_hash": SPEC.hash}
INPUTS = {"history": HISTORY, "candidates": CANDIDATES}
BOUND = 2e-5
"""How far the same scores of two calls may lie apart."""


def scores_of(servers: Pair) -> np.ndarray:
    """The scores of the call, over gRPC."""
    reply = Grpc(servers.predictor.grpc).infer(message(SPEC, HISTORY, COLUMNS))
    values: np.ndarray = reply.outputs[0].as_numpy()
    assert np.ptp(values, axis=0).max() > 100 * BOUND
    return values


def grpc_call(**parameters: pb.InferParameter) -> pb.ModelInferRequest:
    """The predictor's call as protobuf; a parameter replaces one of the usual ones."""
    given = {
        "request_time_ms": pb.InferParameter(int64_param=NOW_MS),
        "spec_hash": pb.InferParameter(string_param=SPEC.hash),
        **parameters,
    }
    return pb.ModelInferRequest(
        model_name=NAME,
        inputs=[{"name": n, "datatype": "BYTES", "shape": [1]} for n in INPUTS],
        raw_input_contents=[struct.pack("<I", len(v)) + v for v in INPUTS.values()],
        parameters=given,
    )
