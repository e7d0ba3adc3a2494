"""`--format onnx`: a model for onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recmtl._extras import import_optional
from recmtl.exporting.net import ServingNet
from recmtl.exporting.tracing import traced

__all__ = ["load", "require", "write"]

_FILE = "model.onnx"
_MOST_BYTES = 2**31 - 2**27
"""A file of protocol buffers ends at 2 GiB; the weights of larger models stand beside it."""
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def require() -> None:
    """Require the packages that write and read the format.

    Raises:
        MissingExtraError: one is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_optional(package, "`--format onnx`")


def write(net: ServingNet, folder: Path) -> None:
    """Write the net; inputs have the names of `inputs_of`, outputs those of the tasks."""
    num_bytes = sum(t.nbytes for t in (*net.parameters(), *net.buffers()))
    with _quietly():
        program = torch.onnx.export(
            traced(net),
            (),
            input_names=[each.name for each in net.inputs],
            output_names=list(net.tasks.names),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        _let_names_differ(program.model.graph)
        program.save(str(folder / _FILE), external_data=num_bytes > _MOST_BYTES)


def load(folder: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Read what `write` wrote, with onnxruntime, for the CPU and as many threads as torch has.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    runtime = import_optional("onnxruntime", "an export to ONNX")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(
        str(folder / _FILE), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    read = [each.name for each in session.get_inputs()]

    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run(names, {name: inputs[name].numpy() for name in read})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return model


def _let_names_differ(graph: Any) -> None:
    """Rename what the exporter itself called as a feature or task is called (`embedding`, `view`).

    It names values after operations, and inputs and outputs as asked, without a look at the others.
    """
    asked = {*graph.inputs, *graph.outputs}
    taken = {value.name for value in asked}
    for value in (value for node in graph for value in node.outputs if value not in asked):
        while value.name in taken:
            value.name += "_"
        taken.add(value.name)


@contextmanager
def _quietly() -> Iterator[None]:
    """Let the exporter keep to itself which optional packages it would also know."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
