# SPDX-License-Identifier: Apache-2.0
"""Labels from teachers: rankers of other seeds say how likely each action was, and a ranker learns
from the mean of what they say and what was done (born-again networks, arXiv 1805.04770).

Where impressions are few, what one training takes from chance another does not: the mean of several
rankers is the better label, and the ranker that learned from it costs no more to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.batch import TrainBatch
from model.ranker import Output, Ranker


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

        def mixed(labels: Tensor, logits: Callable[[Output], Tensor]) -> Tensor:
            said = torch.stack([logits(output).float().sigmoid() for output in outputs]).mean(0)
            return torch.lerp(labels, said, self.weight)

        return replace(
            batch,
            labels_RK=mixed(batch.labels_RK, lambda output: output.logits_RK),
            auxiliary_labels_AK=mixed(batch.auxiliary_labels_AK, lambda o: o.auxiliary_AK),
        )


NO_TEACHERS = Teachers((), 0.0)
"""Labels stay what was done."""
