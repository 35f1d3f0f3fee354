# SPDX-License-Identifier: Apache-2.0
"""The `feedsr` command: it parses, calls one function and prints.

This room knows every other by one function. It refuses to compute, and imports nothing heavy before
the command that needs it runs.
"""
