# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.loop` is made of: logs, steps in processes of their own, and their page."""
