# SPDX-License-Identifier: Apache-2.0
"""Impressions become sequences in shards, and shards become a ranker's weights.

This room knows histories, context features and the model. It refuses to know registries and gates:
what a run starts from is an argument, and who may serve is decided elsewhere.
"""
