# SPDX-License-Identifier: Apache-2.0
"""The KServe transformer and predictor."""
