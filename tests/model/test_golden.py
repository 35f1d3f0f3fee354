# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of an earlier release loads and scores as it did; a default is what it was."""

from __future__ import annotations

import json

import pytest
import torch

from model import FeedSRConfig, build_ranker
from model.build import RANKERS as BUILT
from tests.builders import TINY
from tests.model.golden import FILE, PARTS, RANKERS, part_of, scores_of, seeded, weights_of

GOLDEN = json.loads(FILE.read_text())


def assert_scores(got: list[list[float]], want: list[list[float]]) -> None:
    """Equal but for the last bits, which differ from processor to processor."""
    torch.testing.assert_close(
        torch.tensor(got, dtype=torch.float64),
        torch.tensor(want, dtype=torch.float64),
        rtol=1e-6,
        atol=1e-6,
    )


def test_every_ranker_and_part_is_recorded() -> None:
    assert BUILT.keys() == RANKERS.keys() == GOLDEN["weights"].keys() == GOLDEN["scores"].keys()
    assert PARTS.keys() == GOLDEN["parts"].keys() == GOLDEN["part_scores"].keys()


@pytest.mark.parametrize("name", RANKERS)
def test_defaults_are_what_they_were(name: str) -> None:
    assert RANKERS[name].model_dump(mode="json") == GOLDEN["configurations"][name]


@pytest.mark.parametrize("name", RANKERS)
def test_weights_keep_their_names_shapes_and_order(name: str) -> None:
    assert weights_of(build_ranker(RANKERS[name], TINY)) == GOLDEN["weights"][name]


@pytest.mark.parametrize("name", RANKERS)
def test_a_seed_makes_the_weights_that_it_made(name: str) -> None:
    assert seeded(RANKERS[name]) == pytest.approx(GOLDEN["seeded"][name], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_adds_and_takes_the_weights_that_it_did(name: str) -> None:
    assert part_of(PARTS[name]) == GOLDEN["parts"][name]


@pytest.mark.parametrize("name", RANKERS)
def test_the_same_weights_score_as_they_did(name: str) -> None:
    got, want = scores_of(RANKERS[name]), GOLDEN["scores"][name]
    assert got.keys() == want.keys()
    for form in want:
        assert_scores(got[form], want[form])


@pytest.mark.parametrize("name", PARTS)
def test_the_same_weights_of_every_part_score_as_they_did(name: str) -> None:
    got = scores_of(FeedSRConfig.model_validate(PARTS[name]))["rank"]
    assert_scores(got, GOLDEN["part_scores"][name])


def test_no_two_parts_score_alike() -> None:
    """A figure that every part has would tell nothing of it."""
    default = torch.tensor(GOLDEN["scores"]["feed_sr"]["rank"])
    distance = {
        name: float((torch.tensor(scores) - default).abs().max())
        for name, scores in GOLDEN["part_scores"].items()
    }
    assert distance.pop("head parallel_dcn") == 0
    assert min(distance.values()) > 1e-3, distance
