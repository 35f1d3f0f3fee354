# SPDX-License-Identifier: Apache-2.0
"""Gradient-boosted trees on the same shards: the yardstick that knows counters alone.

This room knows shards and boosters. It refuses to know the model and torch's training.
"""
