"""Batch: selecting and moving rows, against plain lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl.batch import Batch, Ragged

LISTS = st.lists(st.lists(st.integers(0, 2**62), max_size=5), max_size=8)


def ragged(lists: list[list[int]], *, weighted: bool = False) -> Ragged:
    values = [value for row in lists for value in row]
    weights = torch.arange(len(values), dtype=torch.float32) if weighted else None
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.int64)
    return Ragged(torch.tensor(values, dtype=torch.int64), lengths, weights)


def rows_of(column: Ragged) -> list[list[int]]:
    return [part.tolist() for part in column.values_N.split(column.lengths_B.tolist())]


def batch(lists: list[list[int]]) -> Batch:
    rows = len(lists)
    return Batch(
        ids_FB=torch.arange(2 * rows).view(2, rows),
        dense_DB=torch.arange(3 * rows, dtype=torch.float32).view(3, rows),
        bags={"tags": ragged(lists, weighted=True)},
        sequences={"history": ragged(lists)},
        labels_BK=torch.arange(2 * rows, dtype=torch.float32).view(rows, 2),
        weight_B=torch.arange(rows, dtype=torch.float32),
        rows_B=torch.arange(rows) + 100,
    )


@given(LISTS, st.data(), st.booleans())
def test_selected_lists_are_those_of_their_rows(
    lists: list[list[int]], data: st.DataObject, weighted: bool
) -> None:
    position = st.integers(0, len(lists) - 1)
    chosen = data.draw(st.lists(position, max_size=10)) if lists else []
    column = ragged(lists, weighted=weighted)
    found = column.select(torch.tensor(chosen, dtype=torch.int64))
    assert rows_of(found) == [lists[n] for n in chosen]
    assert (found.weights_N is None) is (not weighted)
    if weighted:
        weights = column.weights_N.split(column.lengths_B.tolist())  # type: ignore[union-attr]  # weighted
        expected = [w for n in chosen for w in weights[n].tolist()]
        assert found.weights_N.tolist() == expected  # type: ignore[union-attr]  # weighted


@given(LISTS)
def test_selecting_all_rows_changes_nothing(lists: list[list[int]]) -> None:
    before = batch(lists)
    after = before.select(torch.arange(len(lists)))
    for name in ("ids_FB", "dense_DB", "labels_BK", "weight_B", "rows_B"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    for column, same in ((before.bags["tags"], after.bags["tags"]),):
        assert all(torch.equal(a, b) for a, b in zip(column, same, strict=True))  # type: ignore[arg-type]  # weighted


def test_rows_are_selected_in_order_and_may_repeat() -> None:
    found = batch([[1], [2, 3], []]).select(torch.tensor([2, 1, 1]))
    assert len(found) == 3
    assert found.rows_B.tolist() == [102, 101, 101]
    assert found.ids_FB.tolist() == [[2, 1, 1], [5, 4, 4]]
    assert found.dense_DB[2].tolist() == [8.0, 7.0, 7.0]
    assert found.labels_BK.tolist() == [[4.0, 5.0], [2.0, 3.0], [2.0, 3.0]]
    assert found.weight_B.tolist() == [2.0, 1.0, 1.0]
    assert rows_of(found.bags["tags"]) == [[], [2, 3], [2, 3]]
    assert found.bags["tags"].weights_N.tolist() == [1.0, 2.0, 1.0, 2.0]  # type: ignore[union-attr]  # weighted
    assert rows_of(found.sequences["history"]) == [[], [2, 3], [2, 3]]


def test_everything_moves_to_a_device() -> None:
    moved = batch([[1], [2, 3]]).to("meta")
    tensors = [moved.ids_FB, moved.dense_DB, moved.labels_BK, moved.weight_B, moved.rows_B]
    tensors += [*moved.bags["tags"], *moved.sequences["history"][:2]]  # type: ignore[list-item]  # weighted
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.sequences["history"].weights_N is None


def test_a_batch_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="weight_B"):
        batch([[1]]).weight_B = torch.ones(1)  # type: ignore[misc]  # frozen
