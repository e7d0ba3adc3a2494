from __future__ import annotations

import torch

from recmtl.data.cutting import cut_rows, pad_to
from tests.data.test_encode import assert_equal
from tests.data.test_pools import encoded


def test_cuts_are_consecutive_selections() -> None:
    whole, _ = encoded(30)
    start = 0
    for size, part in zip((7, 0, 13, 10), cut_rows(whole, (7, 0, 13, 10)), strict=True):
        assert_equal(part, whole.select(torch.arange(start, start + size)))
        assert part.ids_FB.is_contiguous()
        start += size


def test_padding() -> None:
    whole, _ = encoded(5)
    padded = pad_to(whole, 8)
    assert_equal(padded.select(torch.arange(5)), whole)
    more = padded.select(torch.arange(5, 8))
    assert more.rows_B.tolist() == [-1] * 3
    assert more.weight_B.tolist() == [0.0] * 3
    assert not more.ids_FB.any()
    assert not more.dense_DB.any()
    assert more.labels_BK.isnan().all()
    for column in (more.bags | more.sequences).values():
        assert column.lengths_B.tolist() == [0, 0, 0]
    assert pad_to(whole, 3) is whole
