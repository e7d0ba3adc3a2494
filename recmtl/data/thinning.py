"""Training rows that are thinned while they are read: by chance, at rates that labels decide."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.hashing import combine, splitmix64
from recmtl.data.scan import Log, RowFilter
from recmtl.errors import DataError
from recmtl.spec import Sample

__all__ = ["thinned"]

_SALT = 0x5448494E


def thinned(log: Log, sample: Sample, *, of: Log) -> Log:
    """The rows that a spec's `data.sample` keeps; the same ones each time.

    Whether a row is kept depends on its number in the files, the seed and its labels alone, so rows
    that come behind others change nothing for these. A null label is not 1.

    Args:
        log: training rows.
        sample: the shares to keep.
        of: the same files, all their rows.

    Raises:
        DataError: a label column is missing or holds no numbers; no row is left.
    """
    labels = [column for column in sample.keep if column != "else"]
    problems = [text for c in labels if c not in of.schema for text in of.why_missing(c, "label")]
    problems += [
        f"{log.name}: column `{c}` of `data.sample` is {log.schema[c]}, but a label is 0 or 1."
        for c in labels
        if c in log.schema and not (log.schema[c].is_numeric() or log.schema[c] == pl.Boolean)
    ]
    if problems:
        raise DataError.all_of(problems)
    key = np.uint64(combine(_SALT, sample.seed))
    bits: list[list[NDArray[np.uint8]]] = [[] for _ in log.files]
    row = 0
    for pieces in zip(*(of.column_pieces(column) for column in labels), strict=True):
        number, first = pieces[0]
        share_N = np.full(len(first), sample.keep["else"])
        for column, (_, values) in reversed(list(zip(labels, pieces, strict=True))):
            is_one = (values.cast(pl.Float64) == 1).fill_null(value=False).to_numpy()
            share_N[is_one] = sample.keep[column]
        draw_N = splitmix64(np.arange(row, row + len(first), dtype=np.uint64) ^ key)
        bits[number].append(np.packbits((draw_N >> np.uint64(11)) * 2.0**-53 < share_N))
        row += len(first)
    keep = ", ".join(f"{column}: {share!r}" for column, share in sample.keep.items())
    words = f"sampled {{{keep}}} with seed {sample.seed}"
    kept = log.filtered(
        RowFilter(words, tuple(np.concatenate([np.empty(0, np.uint8), *parts]) for parts in bits))
    )
    if not kept.num_rows:
        raise DataError(
            f"{log.name}: `data.sample` leaves none of {log.num_rows:,} training rows. Raise its "
            "shares."
        )
    kept.left_out = log.num_rows - kept.num_rows
    return kept
