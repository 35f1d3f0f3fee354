# SPDX-License-Identifier: Apache-2.0
"""The table of boosted trees has every feature but ids, and says what is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.studies.lightgbm.table import Columns, make_table, target_table
from feature_repo.spec import Spec
from feature_repo.specs import SPECS
from tests.builders import TINY, make_rank_batch, make_train_batch


@pytest.mark.parametrize("spec", [*SPECS.values(), TINY], ids=lambda spec: spec.name)
def test_the_table_has_a_column_for_everything_but_hashed_ids(spec: Spec) -> None:
    columns, table = Columns.from_spec(spec), target_table(make_train_batch(spec, 1, [40, 3]), spec)
    assert table.shape[1] == len(columns.names) == len(set(columns.names))
    assert table.dtype == np.float32
    assert not any(name.endswith("_id") for name in columns.names)
    for at in columns.categorical:
        known = table[np.isfinite(table[:, at]), at]
        assert (known >= 0).all()


def test_what_is_unknown_is_missing() -> None:
    batch = make_rank_batch(TINY, 1, [0], [3])
    batch.candidates["media"][:] = torch.tensor([-1, 4, 3], dtype=torch.int32)
    batch.candidates["content"][:] = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 1]]).half()
    position = torch.tensor([-1, 0, 7])
    names = Columns.from_spec(TINY).names
    table = make_table(batch.candidates, batch.context_NC, position, TINY)
    nan = np.nan
    np.testing.assert_array_equal(table[:, names.index("media")], [nan, nan, 3])
    np.testing.assert_array_equal(table[:, names.index("content_0")], [nan, 0, 1])
    np.testing.assert_array_equal(table[:, 0], [nan, 0, 7])
    at = names.index("rate")
    where = TINY.context_slices["rate"].start
    np.testing.assert_array_equal(table[:, at], batch.context_NC[:, where].numpy())
