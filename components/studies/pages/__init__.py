# SPDX-License-Identifier: Apache-2.0
"""Studies' results as people read them: tables and figures, rendered into pages.

This room knows what a results file holds. It refuses to know how anything in it was made.
"""
