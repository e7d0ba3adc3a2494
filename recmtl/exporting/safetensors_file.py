"""`--format safetensors`: every tensor of the model by its name, whole, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recmtl.config import load_spec
from recmtl.data import Encoders
from recmtl.embeddings import layout
from recmtl.errors import CheckpointError
from recmtl.exporting.inputs import inputs_of
from recmtl.exporting.net import ServingNet
from recmtl.exporting.rows import TablePrecision
from recmtl.models import build_net, build_tasks
from recmtl.run import read_calibration
from recmtl.tasks.calibrator import calibrators_of

__all__ = ["load", "read_tensors", "write", "write_tensors"]

_FILE = "model.safetensors"


def write(net: ServingNet, folder: Path) -> None:
    """Write `tables/<table>/...` (see `pack`), and `net/...`, the dense part."""
    tensors = {
        f"tables/{table.name}/{name}": tensor
        for table, rows in zip(net.layout.tables, net.tables, strict=True)
        for name, tensor in rows.state_dict().items()
    }
    tensors |= net.below.state_dict(prefix="net/inputs.")
    tensors |= net.tower.state_dict(prefix="net/tower.")
    write_tensors(folder / _FILE, tensors)


def load(
    folder: Path, precision: TablePrecision
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The net, from the tensors, the spec, the encoders and what tasks are calibrated with.

    Raises:
        CheckpointError: the tensors are not those of the net.
    """
    config, encoders = load_spec(folder / "config.yaml"), Encoders.load(folder / "encoders")
    tensors = read_tensors(folder / _FILE)
    tables = layout(config, encoders.tables, encoders.single, encoders.bags)
    net = build_net(config, config.network, encoders, nn.Identity())
    net.load_dense(_below(tensors, "net/"))
    tasks = build_tasks(
        config,
        config.objective.kind,
        config.train.normalize,
        encoders,
        calibrators_of(read_calibration(folder)),
    )
    try:
        packed = {table.name: _below(tensors, f"tables/{table.name}/") for table in tables.tables}
        model = ServingNet(net, tasks, tables, inputs_of(config, tables), packed, precision)
    except (LookupError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / _FILE}: does not hold the model of `config.yaml` ({error})."
        ) from error
    return model


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by their names."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by their names, memory-mapped.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Export the run again.") from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
