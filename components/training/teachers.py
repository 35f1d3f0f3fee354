# SPDX-License-Identifier: Apache-2.0
"""Labels from teachers: what rankers of other seeds say of a batch, mixed with what was done.

These are born-again networks, arXiv 1805.04770. It does not train: a batch goes in, one comes out.

Where impressions are few, what one training takes from chance another does not: the mean of several
rankers is the better label, and the ranker that learned from it costs no more to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from components.config import TrainConfig
from feature_repo.spec import Spec
from model.batch import TrainBatch
from model.checkpoint import load_model
from model.ranker import Ranker


@dataclass(frozen=True)
class Teachers:
    """Trained rankers in evaluation mode, on the device of the batches; none leaves labels alone.

    Attributes:
        rankers: each sees the very batch that the student sees.
        weight: of their mean probability; the label's own is one minus that.
    """

    rankers: Sequence[Ranker]
    weight: float

    @torch.no_grad()
    def mix(self, batch: TrainBatch) -> TrainBatch:
        """The batch with probabilities for labels; what was not observed stays so."""
        if not self.rankers:
            return batch
        outputs = [ranker(batch) for ranker in self.rankers]
        said_RK = _mean_probability([output.logits_RK for output in outputs])
        said_AK = _mean_probability([output.auxiliary_AK for output in outputs])
        return replace(
            batch,
            labels_RK=torch.lerp(batch.labels_RK, said_RK, self.weight),
            auxiliary_labels_AK=torch.lerp(batch.auxiliary_labels_AK, said_AK, self.weight),
        )


def load_teachers(
    folders: Sequence[Path], spec: Spec, config: TrainConfig, device: torch.device
) -> Teachers:
    """The trained rankers in some folders, as a run's teachers.

    Raises:
        ValueError: they are not as many as the configuration wants, or one cannot be loaded.
    """
    if len(folders) != config.teachers:
        raise ValueError(f"want {config.teachers} teachers, got {len(folders)}")
    rankers = [load_model(folder, spec)[0].to(device) for folder in folders]
    return Teachers(rankers, config.teacher_weight)


def _mean_probability(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.float().sigmoid() for each in logits]).mean(0)


NO_TEACHERS = Teachers((), 0.0)
"""Labels stay what was done."""
