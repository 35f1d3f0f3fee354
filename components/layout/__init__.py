# SPDX-License-Identifier: Apache-2.0
"""A run's root: where each file lies, how one is written, and who writes.

This room knows names and bytes. It refuses to know what is in a file, which step makes it, and why.
"""
