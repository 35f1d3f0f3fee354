# SPDX-License-Identifier: Apache-2.0
"""Studies of the rankers: what each part is worth, who ranks better, and what an AUC hides.

This room knows trials, rows and their uncertainty. It refuses to promote anything or to touch a
run.
"""
