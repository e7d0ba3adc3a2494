"""Some of the validation rows of a run: found where they were in training, spread over the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Encoders, Log, open_splits
from recmtl.data.cutting import join_rows
from recmtl.data.reading import read_rows
from recmtl.errors import DataError
from recmtl.run import Run

__all__ = ["NoRowsError", "fitting_rows", "read_sample", "spread_rows", "validation_log"]

_STRETCHES = 32
_LEAST_ROWS = 64


class NoRowsError(DataError):
    """There are no validation rows, or they are not where they were."""


def validation_log(run: Run, data: str | Path | None = None) -> Log:
    """The validation rows that a run was trained with.

    Args:
        run: the run.
        data: folder of the data (default: where it was in training).

    Raises:
        NoRowsError: there are none, or `data` is not given and they are not to be found.
        DataError: `data` is given and does not hold them, or there are none.
    """
    config, folder = run.config, run.data_dir if data is None else Path(data)
    if config.data.valid is None:
        if data is None:
            raise NoRowsError("The spec names no validation rows.")
        raise DataError(
            "`--data` is for validation rows, and the run was trained without any (its spec has no "
            "`data.valid`). Leave it out."
        )
    if folder is None:
        raise NoRowsError("The run does not say where its data is: pass its folder as `--data`.")
    try:
        return _opened(run, folder)
    except DataError as error:
        if data is not None:
            raise
        raise NoRowsError(
            f"The validation rows are not in `{folder}` as they were in training: pass the folder "
            f"where they are as `--data`. ({error})"
        ) from error


def _opened(run: Run, folder: Path) -> Log:
    encoders = run.encoders
    splits = open_splits(run.config, folder, families=encoders.families, lists=encoders.bags)
    valid = splits.valid
    assert valid is not None
    known = run.data_fingerprint.rpartition("-")[2]
    if known and valid.fingerprint != known:
        raise DataError(
            f"{valid.name}: holds other rows than those that the run was validated with. "
            "Restore the file, or pass the folder where it is as `--data`."
        )
    return valid


def spread_rows(total: int, most: int, *, stretches: int = _STRETCHES) -> NDArray[np.int64]:
    """Rising numbers of at most `most` of `total` rows, in stretches that lie evenly spread.

    Example:
        >>> spread_rows(10, 4, stretches=2).tolist(), spread_rows(3, 4).tolist()
        ([0, 1, 5, 6], [0, 1, 2])
    """
    if total <= most:
        return np.arange(total)
    number, length = np.arange(most), -(-most // stretches)
    return number + number // length * (total - most) // -(-most // length)


def fitting_rows(encoders: Encoders) -> int:
    """How many encoded rows an eighth of `data.memory` holds; a few in any case."""
    fitting = int(encoders.spec.data.memory_bytes / 8 / (2 * encoders.row_bytes))
    return max(fitting, _LEAST_ROWS)


def read_sample(
    log: Log,
    encoders: Encoders,
    most: int,
    *,
    labels: bool = True,
    stretches: int = _STRETCHES,
    counts: EncodeCounts | None = None,
) -> Batch:
    """At most `most` rows of a log, no more than an eighth of `data.memory` holds.

    Args:
        log: the log.
        encoders: turn its rows into a batch.
        most: how many rows.
        labels: whether to read labels and sample weights.
        stretches: in how many places they are read.
        counts: where values, nulls and out-of-vocabulary ids are counted.

    Raises:
        DataError: a file that is corrupt, or values that the spec forbids; says where.
    """
    numbers = spread_rows(log.num_rows, min(most, fitting_rows(encoders)), stretches=stretches)
    columns, batches = encoders.columns(labels=labels), list[Batch]()
    # Stretch by stretch, so that what lies between them is not read.
    together = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    for frame, rows in read_rows(log, columns, together, at_once=encoders.piece_rows):
        try:
            batch = encoders.encode(frame, labels=labels, counts=counts)
        except DataError as error:
            raise error.at(f"{log.name}, rows {rows.min()} to {rows.max()}") from error
        batch.rows_B.copy_(torch.from_numpy(rows))
        batches.append(batch)
    return join_rows(batches)
