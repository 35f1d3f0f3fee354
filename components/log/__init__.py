# SPDX-License-Identifier: Apache-2.0
"""A raw log becomes checked impressions: sources write days, ingest checks them, others read them.

This room knows what a row must hold and when it arrived. It refuses to know what is counted from
the rows, what is trained on them, and Feast.
"""
