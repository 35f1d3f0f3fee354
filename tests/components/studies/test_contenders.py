# SPDX-License-Identifier: Apache-2.0
"""The comparison's list: every contender is a ranker, and every corner of its space is valid."""

from pathlib import Path

import pytest

from components.studies.contenders import CONTENDERS, OURS, Between, Contender
from feature_repo.specs import SIMULATOR
from model.build import RANKERS
from tests.study_builders import TESTING, comparison


def corner(contender: Contender, place: int) -> dict:
    """The first or the last of everything that is tuned, or what a taught one changes."""
    ends = {
        name: (choices.low, choices.high) if isinstance(choices, Between) else choices
        for name, choices in contender.space.items()
    }
    return {name: values[place] for name, values in ends.items()} or dict(contender.changes)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_every_contender_is_a_ranker_and_every_corner_of_its_space_is_valid(contender) -> None:
    assert contender.name in RANKERS or contender.start or contender.base in RANKERS
    study = comparison(Path("nowhere"))
    start = study.trial(contender, {}, TESTING, 0)
    for place in (0, -1):
        trial = study.trial(contender, corner(contender, place), TESTING, 0)
        assert trial.config.spec == SIMULATOR
        assert trial.fingerprint != start.fingerprint


def test_names_and_titles_are_of_one_contender_each_and_ours_is_the_first() -> None:
    assert CONTENDERS[0].name == OURS
    for names in ([c.name for c in CONTENDERS], [c.title for c in CONTENDERS]):
        assert len(set(names)) == len(names)


def test_a_contender_is_tuned_or_comes_after_the_one_whose_choice_it_takes() -> None:
    names = [contender.name for contender in CONTENDERS]
    for contender in CONTENDERS:
        assert bool(contender.base) != bool(contender.space)
        if contender.base:
            assert names.index(contender.base) < names.index(contender.name)
            assert contender.changes
