"""NumPy to Arrow without pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["to_arrow"]


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """Numbers in Arrow, of two dimensions as lists of one size.

    `pyarrow.array` would import pandas for it, which takes .2 s.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    numbers = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    if values.ndim == 1:
        return numbers
    return pa.FixedSizeListArray.from_arrays(numbers, values.shape[1])
