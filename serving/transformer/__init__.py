# SPDX-License-Identifier: Apache-2.0
"""The transformer: a member and candidates in, a ranked feed out; features from Feast.

This room knows the store, the request and the final score. It refuses to know the model: no import
of it reaches torch.
"""
