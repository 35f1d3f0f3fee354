# SPDX-License-Identifier: Apache-2.0
"""Native kernels, one folder each, with a reference that says what they compute.

This package imports nothing of ours. It refuses to know features, models and files of a run.
"""
