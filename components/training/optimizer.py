# SPDX-License-Identifier: Apache-2.0
"""The optimiser and its schedule: AdamW under one cycle, both functions of the step.

Knows parameters and the training configuration; does not know batches or losses.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from components.config import TrainConfig

RISE = 0.3
"""The share of a run in which the rate rises."""
FIRST_DIVISOR = 25.0
"""The peak over the first rate."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that decay, and those that do not.

    Matrices of layers decay; embeddings, norms, biases, scales and tables of logit offsets do not.
    """
    still = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    still |= {id(p) for n, p in model.named_parameters() if p.ndim < 2 or n.startswith("offsets")}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) not in still], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in still], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW in its fused form, on whichever device the parameters are."""
    groups = parameter_groups(model, config.weight_decay)
    return AdamW(groups, lr=config.learning_rate, fused=True)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> OneCycleLR:
    """One cycle of the learning rate over `steps`: up to the peak, then down; momentum stays.

    It is laid out for one step more than there are, so that the last step still learns. The rise is
    the first three tenths, and a step at least: two to five steps begin at a 25th of the peak and
    take the second step with it. A single step is taken with the peak.
    """
    laid_out = max(steps, 1) + 1
    return OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=laid_out,
        pct_start=max(RISE, 2 / laid_out),
        div_factor=1.0 if steps < 2 else FIRST_DIVISOR,
        cycle_momentum=False,
    )


def resume_schedule(schedule: OneCycleLR, step: int, rates: list[float]) -> None:
    """Puts the schedule, and the optimiser's learning rates, where they were after `step` steps."""
    schedule.load_state_dict({"last_epoch": step, "_last_lr": rates})
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
