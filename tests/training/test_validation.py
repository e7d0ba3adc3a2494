"""Columns of outcomes."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("memory", [None, 0])
def test_rows_come_back_in_the_order_of_the_log_without_padding(memory: int | None) -> None:
    columns = OutcomeColumns(memory)
    for _ in range(2):  # it starts anew each time
        for rows in ([2, 0], [1, -1], [-1, 3]):
            given = batch(rows)
            columns.add(given.labels_BK.bfloat16() * 10, given)
        (piece,) = columns.take()
        assert piece.rows_B.tolist() == [0, 1, 2, 3]
        assert piece.labels_BK[:, 0].tolist() == [0, 1, 2, 3]
        assert piece.logits_BH[:, 0].tolist() == [0, 10, 20, 30]
        assert piece.logits_BH.dtype == torch.float32


def test_many_rows_come_in_pieces() -> None:
    columns = OutcomeColumns()
    for start in range(0, 150_000, 30_000):
        given = batch(list(range(start, start + 30_000)))
        columns.add(given.labels_BK, given)
    pieces = list(columns.take())
    assert [len(piece.rows_B) for piece in pieces] == [90_000, 60_000]
    assert torch.cat([piece.rows_B for piece in pieces]).tolist() == list(range(150_000))


def test_what_an_interrupted_pass_left_is_forgotten() -> None:
    columns = OutcomeColumns()
    given = batch([5, 6])
    columns.add(given.labels_BK, given)
    columns.clear()
    given = batch([0, 1])
    columns.add(given.labels_BK, given)
    assert [piece.rows_B.tolist() for piece in columns.take()] == [[0, 1]]
