# SPDX-License-Identifier: Apache-2.0
"""The daily loop in rooms: from a raw log to a model that serves, and the studies around it.

`config`, `console` and `layout` are the ground that every room stands on. It refuses to know any
room above it.
"""
