# SPDX-License-Identifier: Apache-2.0
"""Who may be timed: ours have to be right, and a peer that is not is a fact of the record."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from benchmarks._attention_peers import Parts
from benchmarks._attention_rules import Variant, agreeing

CONTEXT, CANDIDATES = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
"""Of norms 5 and 10."""
SPLIT = Variant(run=lambda: (CONTEXT, CANDIDATES))


def saying(*parts: Tensor | None, peer: bool = True) -> Variant:
    return Variant(run=lambda: parts, peer=peer)


def dying(message: str, *, peer: bool = True) -> Variant:
    def run() -> Parts:
        raise RuntimeError(message)

    return Variant(run=run, peer=peer)


@pytest.mark.parametrize("place", [0, 1])
def test_a_peer_that_gives_nan_is_left_out_and_said(place: int) -> None:
    parts = [CONTEXT.clone(), CANDIDATES.clone()]
    parts[place][1] = torch.nan
    right, facts = agreeing({"split": SPLIT, "flex": saying(*parts)}, torch.float32)
    assert list(right) == ["split"]
    assert facts == {"flex": "wrong here: NaN", "relative_difference": {"split": 0.0}}
    json.dumps(facts, allow_nan=False)


def test_a_peer_that_is_far_away_is_left_out_and_said_and_its_neighbours_stay() -> None:
    variants = {
        "split": SPLIT,
        "far": saying(CONTEXT, CANDIDATES + torch.tensor([0.0, 0.5])),
        "near": saying(None, CANDIDATES + torch.tensor([0.0, 0.05])),
        "infinite": saying(CONTEXT / 0, CANDIDATES),
    }
    right, facts = agreeing(variants, torch.bfloat16)
    assert list(right) == ["split", "near"]
    assert facts["far"] == "wrong here: 0.05 away from split, want less than 0.01"
    assert facts["infinite"] == "wrong here: inf away from split, want less than 0.01"
    assert facts["relative_difference"] == {"split": 0.0, "near": 0.005}


def test_a_peer_that_cannot_run_is_said_in_one_line() -> None:
    variants = {"dead": dying("no kernel\nfor this\n"), "silent": dying("")}
    right, facts = agreeing({"split": SPLIT, **variants}, torch.float32)
    assert list(right) == ["split"]
    assert facts["dead"] == "not run: RuntimeError: no kernel"
    assert facts["silent"] == "not run: RuntimeError: "


def test_one_of_ours_that_is_wrong_ends_the_benchmark() -> None:
    for parts in ((CONTEXT, CANDIDATES * 1.1), (CONTEXT * torch.nan, CANDIDATES)):
        ours = saying(*parts, peer=False)
        with pytest.raises(AssertionError, match="native is wrong here"):
            agreeing({"split": SPLIT, "native": ours}, torch.float32)
    with pytest.raises(RuntimeError, match="broken"):
        agreeing({"split": SPLIT, "native": dying("broken", peer=False)}, torch.float32)
    with pytest.raises(AssertionError, match="split is wrong here: NaN"):
        agreeing({"split": saying(CONTEXT * torch.nan, peer=False)}, torch.float32)
