# SPDX-License-Identifier: Apache-2.0
"""Impressions become the rows of Feast: counted, packed, brought offline and online.

This room knows the feature spec, the log and the store. It refuses to know models and training,
and how a day's steps follow each other.
"""
