# SPDX-License-Identifier: Apache-2.0
"""The layers of a transformer over packed sequences: one layer in three forms, and its parts.

This room knows attention, norms, positions and residuals. It refuses to know features, heads and
tasks.
"""
