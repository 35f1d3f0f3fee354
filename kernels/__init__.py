# SPDX-License-Identifier: Apache-2.0
"""Native kernels, one folder each; this package imports nothing of ours."""
