# SPDX-License-Identifier: Apache-2.0
"""The predictor: decoded requests in, probabilities per task out; one model in one thread.

This room knows the model, its memory of histories and the wire. It refuses to know where features
come from: no import of it reaches Feast or Kubeflow Pipelines.
"""
