# SPDX-License-Identifier: Apache-2.0
"""The order of a day, on this machine and on a cluster, and what surrounds it: demo, serve, submit.

This room knows every step by its function. It computes nothing of a step, and refuses to know how
one is done.
"""
