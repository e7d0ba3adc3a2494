"""NumPy to Arrow without pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["to_arrow"]


def to_arrow(values_N: NDArray[Any]) -> pa.Array:
    """Numbers in Arrow; `pyarrow.array` would import pandas for it, which takes .2 s."""
    buffer = pa.py_buffer(np.ascontiguousarray(values_N))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values_N.dtype), len(values_N), [None, buffer])
