# SPDX-License-Identifier: Apache-2.0
"""The KServe transformer and predictor, and here what both speak.

That is the history value, the wire, errors, metrics and how a server starts. This room refuses to
know how a day's features and models are made.
"""
