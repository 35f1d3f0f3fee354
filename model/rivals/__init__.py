# SPDX-License-Identifier: Apache-2.0
"""The rankers that Feed-SR is compared with, each as its paper uses it, on the same features.

This room knows what each paper does otherwise. It refuses to know Feed-SR itself: layers, tokens
and heads are shared. Importing it loads the configurations alone; `model.build.RANKERS` has the
rankers.
"""

from model.rivals.config import (
    AppendedConfig,
    HistoryConfig,
    LiGRConfig,
    LiRankConfig,
    TransActConfig,
)

__all__ = ["AppendedConfig", "HistoryConfig", "LiGRConfig", "LiRankConfig", "TransActConfig"]
