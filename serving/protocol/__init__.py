# SPDX-License-Identifier: Apache-2.0
"""KServe's protocols as calls come in: V1 and V2 over REST, V2 over gRPC, each within bounds.

This room knows bodies, messages and statuses. It refuses to know what is ranked.
"""
