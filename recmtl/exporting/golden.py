"""The golden batch of an export: a few rows, what they are encoded to, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from torch import Tensor

from recmtl.data import Encoders, Log
from recmtl.errors import CheckpointError
from recmtl.exporting.safetensors_file import read_tensors, write_tensors

__all__ = ["GOLDEN_ROWS", "golden_rows", "read_golden", "write_golden"]

GOLDEN_ROWS = 64
_STRETCHES = 8
_SEED = 0
_FOLDER = "golden"


def golden_rows(encoders: Encoders, log: Log | None) -> tuple[pl.DataFrame, str]:
    """The raw columns of 64 rows, and where they are from.

    They are read in eight places that lie evenly spread in the log, of a shorter one all; without
    one, they are drawn from the vocabularies.
    """
    if log is None or not log.num_rows:
        return encoders.draw(GOLDEN_ROWS, seed=_SEED), "drawn from the vocabularies"
    starts, size = [0], log.num_rows
    if log.num_rows > GOLDEN_ROWS:
        size = GOLDEN_ROWS // _STRETCHES
        starts = np.linspace(0, log.num_rows - size, _STRETCHES).astype(np.int64).tolist()
    columns = encoders.columns(labels=False)
    parts = [log.read(columns, start, start + size) for start in starts]
    return pl.concat(parts), "validation rows"


def write_golden(
    folder: Path,
    rows: pl.DataFrame,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> None:
    """Write all three."""
    (folder / _FOLDER).mkdir()
    rows.write_parquet(folder / _FOLDER / "rows.parquet")
    for name, tensors in (("inputs", inputs), ("outputs", outputs)):
        own = {key: tensor.clone() for key, tensor in tensors.items()}  # not rows of one another's
        write_tensors(folder / _FOLDER / f"{name}.safetensors", own)


def read_golden(folder: Path) -> tuple[pl.DataFrame, dict[str, Tensor], dict[str, Tensor]]:
    """What `write_golden` wrote.

    Raises:
        CheckpointError: a file cannot be read.
    """
    file = folder / _FOLDER / "rows.parquet"
    try:
        rows = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}). Export the run again.") from error
    return (
        rows,
        read_tensors(folder / _FOLDER / "inputs.safetensors"),
        read_tensors(folder / _FOLDER / "outputs.safetensors"),
    )
