# SPDX-License-Identifier: Apache-2.0
"""How good a model is and whether what is served is what was trained: metrics, parity, the report.

This room knows shards, rankers and the records of a run. It refuses to decide: the gate does.
"""
