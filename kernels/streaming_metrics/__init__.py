# SPDX-License-Identifier: Apache-2.0
"""AUC, log loss and calibration of many tasks from counts that can be merged; see README.md."""

from kernels.streaming_metrics.histogram import StreamingMetrics
from kernels.streaming_metrics.reference import (
    exact_auc,
    exact_calibration,
    exact_ece,
    exact_log_loss,
)

__all__ = ["StreamingMetrics", "exact_auc", "exact_calibration", "exact_ece", "exact_log_loss"]
