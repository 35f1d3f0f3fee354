# SPDX-License-Identifier: Apache-2.0
"""The feature repository: what `feast apply` reads, and the spec every room derives from."""
