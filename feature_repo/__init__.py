# SPDX-License-Identifier: Apache-2.0
"""What `feast apply` reads: the feature spec, entities, sources, views and services.

This package declares. It refuses to know logs, models and servers, and imports nothing of ours.
"""
