# SPDX-License-Identifier: Apache-2.0
"""Nobody, nothing shown and no post: the parts of the simulator give nothing, and do not fail."""

from __future__ import annotations

import numpy as np

from components.log.sources.feedback import act, examination, log_likelihood, probabilities
from components.log.sources.simulator import spoil
from components.log.sources.simulator_config import SimulatorConfig
from components.log.sources.world import Posts, SegmentSampler, World, unit


def test_nobody_and_nothing_is_simulated() -> None:
    rng, none = np.random.default_rng(0), np.zeros(0)
    drawn = act(rng, none, none)
    assert {len(v) for v in drawn.values()} == {0}
    assert len(log_likelihood(drawn, none, none)) == 0
    assert {len(v) for v in probabilities(none, none).values()} == {0}
    assert len(examination(none, SimulatorConfig())) == 0
    assert unit(np.zeros((0, 3))).shape == (0, 3)
    names = ("member_id", "event_time", "arrival_time", "click", "position", "surface", "dwell_ms")
    assert len(spoil({name: np.zeros(0, np.int64) for name in names})["click"]) == 0
    empty, some = np.zeros(0, np.int64), np.array([0, 1, 1])
    assert SegmentSampler(empty, none, 2).draw(some, np.zeros(3)).tolist() == [-1, -1, -1]
    assert SegmentSampler(some, np.ones(3), 2).draw(empty, none).tolist() == []
    world = World(SimulatorConfig(members=3, posts_per_day=4, impressions=10))
    made = world.stock[0]
    posts = Posts(**{name: getattr(made, name)[:0] for name in Posts.__dataclass_fields__})
    assert world.content(posts).shape == (0, 50)
    assert len(Posts.join([posts, made]).post_id) == 4
