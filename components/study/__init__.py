# SPDX-License-Identifier: Apache-2.0
"""Studies: many trainings that answer one question, each trial once, their results as JSON."""
