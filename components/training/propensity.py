# SPDX-License-Identifier: Apache-2.0
"""How likely a post was looked at where it was shown, and labels that make up for it.

It knows positions and actions; it trains nothing, and takes nothing from a ranker.

Shape suffixes: M impressions, R targets, K tasks, P feed positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.config import TrainConfig
from feature_repo.spec import Spec
from kernels.loader import LossRows, Packed

POSITIONS = 60
"""Deeper positions share the last one's propensity."""

STRENGTH = 100.0
"""So many impressions of the overall rate smooth each position's own."""

FLOOR = 0.1
"""No propensity is taken for less, so that no label is above ten."""


def propensity_table(packs: list[Packed], spec: Spec, config: TrainConfig) -> tuple[float, ...]:
    """What a configuration asks for, `[P]`: none, its own, or what the packs say."""
    if not config.propensity:
        return ()
    if config.propensity != "estimated":
        return tuple(max(p, FLOOR) for p in config.propensity)
    action = click_task(spec)
    return () if action is None else estimate_propensity(packs, action)


def click_task(spec: Spec) -> str | None:
    """The action whose rate by feed position stands for being looked at.

    That is click, or else the first that only an examined post gets; None where there is none.
    """
    examined = [task.name for task in spec.tasks if task.examined]
    return "click" if "click" in examined else next(iter(examined), None)


def estimate_propensity(packs: list[Packed], action: str) -> tuple[float, ...]:
    """The rate of `action` by feed position relative to position 0, in `[0.1, 1]`, `[P]`.

    That is the propensity of being examined where the order was random, and only there: a feed that
    was ranked shows better posts higher, and the rate is their relevance too. Rates are smoothed
    towards the overall rate; deeper positions share the last entry. Empty where nothing is known of
    positions.
    """
    shown_P, hits_P = np.zeros(POSITIONS), np.zeros(POSITIONS)
    for pack in packs:
        position_M, action_M = pack.columns["position"], pack.columns[action]
        seen = (position_M >= 0) & (action_M >= 0)
        place = np.minimum(position_M[seen], POSITIONS - 1)
        shown_P += np.bincount(place, minlength=POSITIONS)
        hits_P += np.bincount(place, weights=action_M[seen], minlength=POSITIONS)
    if hits_P.sum() == 0:
        return ()
    overall = hits_P.sum() / shown_P.sum()
    rate_P = (hits_P + STRENGTH * overall) / (shown_P + STRENGTH)
    return tuple(float(p) for p in np.clip(rate_P / rate_P[0], FLOOR, 1.0))


def labels_of_examined(
    rows: LossRows, spec: Spec, propensity: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """float32 `[R, K]`: labels whose mean at any feed position is that of an examined post.

    Where an action needs a look at the post (`Task.examined`), it happens with the propensity of
    the position times the post's relevance. Its label over the propensity, y / e, has relevance for
    its mean, and cross-entropy is linear in the label: y / e of "it happened" and 1 - y / e of "it
    did not" (Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit
    Feedback", 2020). Labels can be above one; `components.training.loss` takes them.

    Args:
        rows: what was done, and at which position. A row without one keeps its labels.
        propensity: by feed position, deeper ones share the last; empty corrects nothing.
    """
    if not propensity:
        return rows.labels_RK
    deepest = len(propensity) - 1
    table = np.array([*propensity, 1.0], np.float32)
    place_R = np.where(rows.slot_R < 0, deepest + 1, np.minimum(rows.slot_R, deepest))
    divisor_RK = np.ones_like(rows.labels_RK)
    divisor_RK[:, [task.examined for task in spec.tasks]] = table[place_R][:, None]
    return rows.labels_RK / divisor_RK
