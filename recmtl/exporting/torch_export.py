"""`--format torch-export`: a graph of ATen operations and its weights in one `.pt2` file.

The archive holds the graph as JSON and each weight as plain bytes; where torch keeps a pickle of
examples of the inputs, it is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recmtl.exporting.archive import require_no_pickle
from recmtl.exporting.net import ServingNet
from recmtl.exporting.tracing import traced

__all__ = ["load", "write"]

_FILE = "model.pt2"


def write(net: ServingNet, folder: Path) -> None:
    """Write the net."""
    program = traced(net)
    program.example_inputs = None  # torch would write them as a pickle
    torch.export.save(program, folder / _FILE)
    require_no_pickle(folder / _FILE, kind="torch-export")


def load(folder: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Read what `write` wrote.

    Raises:
        CheckpointError: the file holds what torch might unpickle.
    """
    require_no_pickle(folder / _FILE, kind="torch-export")
    module: Callable[[dict[str, Tensor]], dict[str, Tensor]] = torch.export.load(
        folder / _FILE
    ).module()
    return module
