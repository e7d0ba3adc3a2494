"""Columns of outcomes."""

from __future__ import annotations

import torch

from recmtl.batch import Batch
from recmtl.training.validation import OutcomeColumns


def batch(rows: list[int]) -> Batch:
    """Rows whose label is their number; -1 is padding."""
    rows_B = torch.tensor(rows)
    return Batch(
        ids_FB=torch.zeros(0, len(rows), dtype=torch.int64),
        dense_DB=torch.zeros(0, len(rows)),
        bags={},
        sequences={},
        labels_BK=rows_B.float().unsqueeze(1),
        weight_B=(rows_B >= 0).float(),
        rows_B=rows_B,
    )


def test_rows_come_back_in_the_order_of_the_log_without_padding() -> None:
    columns = OutcomeColumns()
    for rows in ([2, 0], [1, -1], [-1, 3]):
        given = batch(rows)
        columns.add(given.labels_BK.bfloat16() * 10, given)
    outcomes = columns.take()
    assert outcomes is not None
    assert outcomes.rows_B.tolist() == [0, 1, 2, 3]
    assert outcomes.labels_BK[:, 0].tolist() == [0, 1, 2, 3]
    assert outcomes.logits_BH[:, 0].tolist() == [0, 10, 20, 30]
    assert outcomes.logits_BH.dtype == torch.float32
