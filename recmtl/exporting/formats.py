"""The formats of an export, and what keeps a run from being written in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

from torch import Tensor

from recmtl.errors import SpecError
from recmtl.exporting import aoti, onnx_model, safetensors_file, torch_export
from recmtl.exporting.inputs import ModelInput
from recmtl.exporting.net import ServingNet
from recmtl.exporting.rows import TablePrecision

__all__ = ["FORMATS", "ExportFormat", "Model", "load_model", "require_format", "write_model"]

ExportFormat = Literal["safetensors", "torch-export", "aoti", "onnx"]
Model = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""The tensors of a call -> what each task predicts."""
_MODULES: dict[ExportFormat, ModuleType] = {
    "safetensors": safetensors_file,
    "torch-export": torch_export,
    "aoti": aoti,
    "onnx": onnx_model,
}
FORMATS: tuple[ExportFormat, ...] = tuple(_MODULES)


def require_format(
    name: ExportFormat, inputs: Sequence[ModelInput], outputs: Sequence[str]
) -> None:
    """Require that a model can be written in a format, before anything is.

    Raises:
        MissingExtraError: a package or a compiler that the format needs is not installed.
        SpecError: names of features and tasks clash in this format.
    """
    if name == "onnx":
        onnx_model.require()
        both = [each.name for each in inputs if each.name in outputs]
        if both:
            raise SpecError(
                f"`--format onnx`: the feature `{both[0]}` and the task `{both[0]}` would have one "
                "name in the graph. Rename the task, or choose another format."
            )
    elif name == "aoti":
        aoti.require()


def write_model(name: ExportFormat, net: ServingNet, folder: Path) -> None:
    """Write a model into a folder."""
    _MODULES[name].write(net, folder)


def load_model(name: ExportFormat, folder: Path, precision: TablePrecision) -> Model:
    """Read what `write_model` wrote.

    Raises:
        CheckpointError: it cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    model: Model = (
        safetensors_file.load(folder, precision)
        if name == "safetensors"
        else _MODULES[name].load(folder)
    )
    return model
