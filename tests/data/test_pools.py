from __future__ import annotations

import pytest
import torch

from recmtl.batch import Batch
from recmtl.data import Encoders
from recmtl.data.pools import Pool, RowFormat, to_batch
from tests.data.test_encode import assert_equal
from tests.data.worlds import funnel


def encoded(rows: int) -> tuple[Batch, RowFormat]:
    log, spec = funnel(rows)
    encoders = Encoders.fit(spec, train=log)
    frame = log.read(encoders.columns(labels=True), 0, rows)
    return encoders.encode(frame, labels=True), encoders.row_format


@pytest.mark.parametrize("words_per_id", [1, 2])
def test_gathering_equals_selecting(words_per_id: int) -> None:
    whole, row_format = encoded(9000)
    row_format = row_format._replace(words_per_id=words_per_id)
    if words_per_id == 2:
        whole.ids_FB[0, :] += 2**62
    order = torch.arange(9000)
    parts = [whole.select(order[:5000]), whole.select(order[5000:5001]), whole.select(order[5001:])]
    pool = Pool(iter(parts), 9000, row_format)
    index_M = torch.randperm(9000)[:700]
    assert_equal(to_batch([pool.gather(index_M)], row_format), whole.select(index_M))
    several = [pool.gather(index_M[:3]), pool.gather(index_M[3:3]), pool.gather(index_M[3:])]
    assert_equal(to_batch(several, row_format), whole.select(index_M))
    for few in (index_M[:0], index_M[:1]):
        assert_equal(to_batch([pool.gather(few)], row_format), whole.select(few))
    assert len(pool) == 9000


def test_row_format_counts_bytes() -> None:
    # 3 ids and 2 dense features, 1 label, weight: 4 bytes each; row number: 8.
    assert RowFormat(3, 2, 1, 1).num_bytes == 4 * 7 + 8
    assert RowFormat(3, 2, 1, 2).num_bytes == 4 * 10 + 8


def test_batches_are_contiguous() -> None:
    whole, row_format = encoded(50)
    batch = to_batch([Pool([whole], 50, row_format).gather(torch.arange(20))], row_format)
    assert batch.ids_FB.is_contiguous()
    assert batch.dense_DB.is_contiguous()
    assert batch.ids_FB.dtype == torch.int64
