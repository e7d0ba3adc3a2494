"""Tables in fewer bits: how they are packed, and how near they stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recmtl.exporting.rows import TablePrecision, TableRows, pack


def table() -> torch.Tensor:
    weight_VE = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    weight_VE[0] = 0.0
    weight_VE[1] = -3.25  # a row of one number
    weight_VE[2] *= 1e-6
    weight_VE[3] *= 1e6
    return weight_VE


@pytest.mark.parametrize(("precision", "steps"), [("int8", 255), ("int4", 15)])
def test_codes_are_the_nearest_steps(precision: TablePrecision, steps: int) -> None:
    weight_VE = table()
    found = TableRows(precision, pack(weight_VE, precision))(torch.arange(50)).numpy()
    for row, said in zip(weight_VE.double().numpy(), found, strict=True):
        low, step = row.min(), (row.max() - row.min()) / steps
        for number, value in zip(row, said, strict=True):
            nearest = low + step * (round((number - low) / step) if step else 0)
            assert abs(value - nearest) <= 1e-5 * max(abs(low), abs(step)) + 0.01 * step
            assert abs(value - number) <= 0.51 * step + 1e-6 * abs(low)
    assert (found[:2] == weight_VE[:2].numpy()).all()


def test_halves_are_those_of_numpy() -> None:
    weight_VE = table().clamp(-100, 100)
    found = TableRows("fp16", pack(weight_VE, "fp16"))(torch.arange(50))
    assert (found.numpy() == weight_VE.numpy().astype(np.float16).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("precision", "bytes_of_a_row"), [("fp32", 32), ("fp16", 16), ("int8", 16), ("int4", 12)]
)
def test_rows_take_as_many_bytes_as_they_should(
    precision: TablePrecision, bytes_of_a_row: int
) -> None:
    packed = pack(table(), precision)
    assert sum(tensor.nbytes for tensor in packed.values()) == 50 * bytes_of_a_row


def test_a_byte_of_int4_holds_a_number_of_each_half() -> None:
    weight_VE = torch.tensor([[0.0, 1.0, 2.0, 15.0]])
    assert pack(weight_VE, "int4")["codes"].tolist() == [[0 + 16 * 2, 1 + 16 * 15]]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_ids_keep_their_shape(precision: TablePrecision) -> None:
    rows = TableRows(precision, pack(table(), precision))
    ids_BL = torch.tensor([[4, 5, 6], [7, 4, 8]])
    found = rows(ids_BL)
    assert found.shape == (2, 3, 8)
    assert found.dtype == torch.float32
    assert torch.equal(found[1, 1], rows(torch.tensor([4]))[0])


def test_large_tables_are_packed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(table(), "int8")
    monkeypatch.setattr("recmtl.exporting.rows._BLOCK_ROWS", 7)
    pieces = pack(table(), "int8")
    assert all(torch.equal(pieces[name], whole[name]) for name in whole)
