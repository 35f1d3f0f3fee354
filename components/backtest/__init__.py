# SPDX-License-Identifier: Apache-2.0
"""Any log cut in time: rankers trained before a date and scored on the days after it.

This room knows the log, training and scorecards, and does each stage once. It refuses to know
Feast, registries and what is promoted.
"""
