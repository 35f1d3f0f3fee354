# SPDX-License-Identifier: Apache-2.0
"""A ranker's logits over a folder of shards with the rows they belong to, for studies.

It knows shards and the ranker's forward; what is made of the scores is the caller's.

Shape suffixes: M impressions; S sequences; R targets; K tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from components.console import progress
from components.evaluation.evaluate import score_rows, served_logits
from components.evaluation.scorecard import Rows
from components.training.data import evaluation_batches, open_loader
from feature_repo.spec import Spec
from kernels.loader import LoaderConfig, Packed
from serving.predictor.rank_batch import SERVING_POSITION


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The targets of one batch of sequences.

    Attributes:
        logits_RK: float32, at the feed position that was asked for.
        rows: labels, sequences and segments, as a scorecard takes them.
        member_R: int64.
        target_R: int64, which of the pack's impressions they are.
        packed: the sequences.
    """

    logits_RK: npt.NDArray[np.float32]
    rows: Rows
    member_R: npt.NDArray[np.int64]
    target_R: npt.NDArray[np.int64]
    packed: Packed


def scored_batches(
    ranker: nn.Module, folder: Path, spec: Spec, position: int | None = SERVING_POSITION
) -> Iterator[Scored]:
    """Scores every target of the shards, in stored order, a batch of sequences at a time.

    Args:
        position: the feed position assumed for every target; None is where each was shown.

    Raises:
        ValueError: there are no shards or they do not fit the spec.
    """
    total = open_loader(folder, spec, LoaderConfig(batch=1)).sequences
    with progress(f"score {folder.name}", total) as advance:
        for batch, packed in evaluation_batches(folder, spec):
            target_R = batch.target_R.numpy()
            member_M = np.repeat(packed.keys["member_id"], packed.lengths_S)
            yield Scored(
                logits_RK=served_logits(ranker, batch, position),
                rows=score_rows(batch, packed, spec),
                member_R=member_M[target_R],
                target_R=target_R,
                packed=packed,
            )
            advance(packed.num_sequences)
