# SPDX-License-Identifier: Apache-2.0
"""A post token is its features projected; an action is no, yes or unknown, or measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from feature_repo.kinds import Binary
from model.tokens import ActionTokens, PostTokens
from tests.builders import TINY, make_columns

ACTIONS = TINY.with_role("action")


def columns(role: str, rows: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return make_columns(TINY.with_role(role), rows, generator)  # type: ignore[arg-type]


def test_a_post_token_is_its_features_projected() -> None:
    tokens, features = PostTokens(TINY, 6, 0.5).eval(), columns("sequence")
    want = tokens.encoder(features) @ tokens.linear.weight.T + tokens.linear.bias
    torch.testing.assert_close(tokens(features), want)
    assert tokens(features).shape == (5, 6)


def test_dropout_falls_on_the_ids_of_a_post_in_training_alone() -> None:
    tokens, features = PostTokens(TINY, 6, 0.9).train(), columns("sequence")
    torch.manual_seed(0)
    assert not torch.equal(tokens(features), tokens(features))
    assert torch.equal(tokens.eval()(features), tokens(features))


@pytest.mark.parametrize(("state", "place"), [(0, 0), (1, 1), (-1, 2), (7, 2)])
def test_each_action_is_no_yes_or_unknown(state: int, place: int) -> None:
    """A column of the projection for each: what is neither no nor yes is unknown."""
    tokens, actions = ActionTokens(TINY, 6), columns("action", 1)
    assert tokens.binary == [f.name for f in ACTIONS if isinstance(f.kind, Binary)]
    moved = {**actions, "click": torch.tensor([state], dtype=torch.int8)}
    no = {**actions, "click": torch.tensor([0], dtype=torch.int8)}
    first = 3 * tokens.binary.index("click")
    weight_DW = tokens.linear.weight
    want = weight_DW[:, first + place] - weight_DW[:, first]
    torch.testing.assert_close((tokens(moved) - tokens(no))[0], want)


def test_a_measured_action_reaches_its_token() -> None:
    tokens, actions = ActionTokens(TINY, 6), columns("action", 2)
    short, long = ({**actions, "dwell_ms": torch.tensor([ms, ms])} for ms in (0.0, 1e5))
    assert not torch.isclose(tokens(short), tokens(long)).all()


@pytest.mark.parametrize("binary", [True, False])
def test_actions_of_one_kind_alone_make_tokens(binary: bool) -> None:
    posts = tuple(f for f in TINY.features if f.role != "action")
    kept = tuple(f for f in ACTIONS if isinstance(f.kind, Binary) == binary)
    spec = dataclasses.replace(
        TINY, features=(*posts, *kept), tasks=TINY.tasks if binary else TINY.tasks[:0]
    )
    assert ActionTokens(spec, 6)(columns("action")).shape == (5, 6)
