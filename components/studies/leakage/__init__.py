# SPDX-License-Identifier: Apache-2.0
"""How much of a next-impression AUC is feedback of the same session.

This room knows sessions and what was known when one began. It refuses to know other studies.
"""
