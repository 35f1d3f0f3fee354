# SPDX-License-Identifier: Apache-2.0
"""Which model, made from what, and may it serve: versions, the gate, and what a run starts from.

This room knows what a day's run and the registry write down. It refuses to know how a model is
trained or scored, and it opens no shard.
"""
