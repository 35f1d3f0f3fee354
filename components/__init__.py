# SPDX-License-Identifier: Apache-2.0
"""The daily loop: one file per step, the pipeline that joins them, and the `feedsr` command."""
