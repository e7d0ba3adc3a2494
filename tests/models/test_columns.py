"""Where each feature stands in the tower's input, against the looked-up vectors."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.embeddings import PlainLookup
from recmtl.models import TowerInputs
from tests.embeddings.world import DIMS, ROWS, SPEC, random_rows, to_batch, world_layout


@pytest.mark.parametrize("attends", [False, True])
def test_columns_are_where_features_stand(*, attends: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(ROWS[n], DIMS[n], generator=generator) for n in ROWS}
    batch = to_batch(random_rows(6, seed=1))
    vectors = PlainLookup(world_layout(), tables)(batch)
    inputs = TowerInputs(
        SPEC, world_layout(), requires=frozenset(), field_dim=8, who="tower", attends=attends
    )
    x_BD = inputs(batch, vectors)
    assert isinstance(x_BD, torch.Tensor)
    columns = inputs.columns
    assert_close(x_BD[:, columns["price"]], batch.dense_DB.T)
    for name in ("user", "item.id", "type", "tags", "topics", "words"):
        assert_close(x_BD[:, columns[name]], vectors[name])
    if attends:
        (name,) = inputs.sequences.values()
        assert name == "history + gaps"
        assert inputs.target == "item.id"
        assert list(columns)[-1] == name
        assert columns[name] == slice(x_BD.shape[1] - 8, x_BD.shape[1])
    else:
        for name in ("history", "gaps"):
            lengths_B1 = batch.sequences[name].lengths_B.clamp(min=1).unsqueeze(1)
            assert_close(x_BD[:, columns[name]], vectors[name].sum(dim=1) / lengths_B1)
    widths = [where.stop - where.start for where in columns.values()]
    assert sum(widths) == x_BD.shape[1]
