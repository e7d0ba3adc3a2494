"""Write a trained run as something that can be served, and prove that it says the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from recmtl._checks import suggest
from recmtl._files import atomic_folder, require_writable, sha256_of, write_json
from recmtl._progress import Progress, no_progress
from recmtl.checkpoint import load_full
from recmtl.checkpoint.manifest import read_json
from recmtl.config import fingerprint
from recmtl.data import Encoders, Log
from recmtl.embeddings import Layout, layout
from recmtl.errors import RecMTLError, SpecError
from recmtl.exporting.agreement import (
    TOLERANCE,
    batch_sizes,
    differences,
    largest_difference,
    validation_cost,
)
from recmtl.exporting.certificate import machine, write_certificate
from recmtl.exporting.formats import (
    FORMATS,
    ExportFormat,
    load_model,
    require_format,
    write_model,
)
from recmtl.exporting.golden import golden_rows, write_golden
from recmtl.exporting.inputs import ModelInput, inputs_of, tensors_of
from recmtl.exporting.net import ServingNet
from recmtl.exporting.rows import TABLES, TablePrecision, pack
from recmtl.models import MultiTaskNet
from recmtl.run import CALIBRATION, Run, read_calibration, versions
from recmtl.tasks import TaskSet
from recmtl.tasks.calibrator import calibrators_of

__all__ = ["ExportResult", "Trained", "export_run"]


class Trained(Protocol):
    """What is needed of `recmtl.BatchScorer`: a run, opened, and read where it is asked for."""

    run: Run
    calibrated: bool

    @property
    def encoders(self) -> Encoders:
        """The run's encoders."""

    @property
    def tasks(self) -> TaskSet:
        """What the run predicts."""

    @property
    def fingerprint(self) -> str:
        """Names the weights."""

    @property
    def verified(self) -> Path:
        """The checkpoint, every file of which is as it was written."""

    @property
    def net(self) -> MultiTaskNet:
        """The network in evaluation mode, with the tables as they were trained."""

    def columns(self) -> dict[str, str]:
        """Output column of each task."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was exported, and how exact it is."""

    format: ExportFormat
    tables: TablePrecision
    out: str
    """Folder of the export."""
    files: int
    size_bytes: int
    max_abs_difference: dict[str, float]
    """Task -> the largest difference between the eager model with the same tables and the exported
    one, of a prediction above 1 as a share of it."""
    cost: dict[str, Any]
    """What the tables' precision costs: ``golden``, task -> the largest change of a prediction;
    ``validation``, metrics before and after, None where the rows are not to be found, or nothing is
    rounded."""


def export_run(
    trained: Trained,
    out: str | Path,
    *,
    format: ExportFormat,  # noqa: A002
    tables: TablePrecision = "fp32",
    valid: Log | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Write a run into a folder, which appears whole or not at all.

    Args:
        trained: the run.
        out: the folder.
        format: see `recmtl.export`.
        tables: how embedding rows are kept.
        valid: validation rows, for the golden batch and for what smaller tables cost.
        progress: shows the validation rows done.

    Raises:
        SpecError: an argument is wrong, or the run cannot be written in this format; or `out` holds
            something.
        MissingExtraError: what the format needs is not installed.
        CheckpointError: the run is corrupt.
        RecMTLError: the exported model says something else than the run; nothing is written.
    """
    out = Path(out)
    _require_choice("format", format, FORMATS)
    _require_choice("tables", tables, TABLES)
    _require_empty(out)
    encoders, config = trained.encoders, trained.run.config
    about = layout(config, encoders.tables, encoders.single, encoders.bags)
    inputs = inputs_of(config, about)
    require_format(format, inputs, trained.tasks.names)
    weights = load_full(trained.verified, "tables/", "/weight")
    packed = {name: pack(weight, tables) for name, weight in weights.items()}
    net = ServingNet(trained.net, trained.tasks, about, inputs, packed, tables)
    with atomic_folder(out, replace=False) as folder:
        _copy_run(trained, folder)
        write_json(folder / "schema.json", _schema(trained, inputs))
        frame, source = golden_rows(encoders, valid)
        batch = encoders.encode(frame, labels=False)
        given = tensors_of(batch, config, inputs)
        with torch.inference_mode():
            whole = _by_task(trained.tasks, trained.tasks.probs(trained.net(batch)))
            expected = whole if tables == "fp32" else net(given)
        write_golden(folder, frame, given, expected)
        write_model(format, net, folder)
        sizes = batch_sizes(given)
        with torch.no_grad():
            found = differences(load_model(format, folder, tables), given, expected, sizes)
        _require_equal(found, format)
        cost: dict[str, Any] = {
            "golden": {task: largest_difference(expected[task], whole[task]) for task in whole},
            "validation": None,
        }
        if tables != "fp32" and valid is not None:
            cost["validation"] = validation_cost(
                trained.net, net, trained.tasks, encoders, valid, progress
            )
        certificate = write_certificate(
            folder,
            {
                "export": {"format": format, "tables": tables},
                "model": trained.fingerprint,
                "config": fingerprint(config),
                "calibrated": sorted(calibrators_of(read_calibration(folder))),
                "schema": sha256_of(folder / "schema.json"),
                "vocabularies": sha256_of(folder / "encoders" / "files.json"),
                "golden": {"rows": frame.height, "source": source},
                "batches": list(sizes),
                "tolerance": TOLERANCE,
                "max_abs_difference": found,
                "cost": cost,
                "table_bytes": _table_bytes(about, net, weights),
                "versions": versions(),
                "machine": machine(),
            },
        )
    files = certificate["files"]
    return ExportResult(
        format=format,
        tables=tables,
        out=str(out),
        files=len(files) + 1,
        size_bytes=sum(file["bytes"] for file in files.values()),
        max_abs_difference=found,
        cost=cost,
    )


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(f"`{choice}`" for choice in choices)
        raise SpecError(
            f"{name}: must be one of {listed}, got {value!r}.{suggest(str(value), choices)}"
        )


def _require_empty(out: Path) -> None:
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise SpecError(f"{out}: exists already. Choose another `--out`; nothing was changed.")
    if out.resolve() == Path.cwd():
        raise SpecError(
            f"{out}: is the working folder, which an export would take the place of. Choose a "
            "folder in it; nothing was changed."
        )
    require_writable(out)


def _copy_run(trained: Trained, folder: Path) -> None:
    """What is needed from raw columns on: the spec, the encoders, and calibrators."""
    path = trained.run.path
    shutil.copyfile(path / "config.yaml", folder / "config.yaml")
    if trained.calibrated and (path / CALIBRATION).is_file():
        shutil.copyfile(path / CALIBRATION, folder / CALIBRATION)
    (folder / "encoders").mkdir()
    source = path / "encoders"
    for name in ("files.json", *read_json(source / "files.json")):
        shutil.copyfile(source / name, folder / "encoders" / name)


def _schema(trained: Trained, inputs: tuple[ModelInput, ...]) -> dict[str, Any]:
    columns = trained.columns()
    return {
        "name": trained.run.config.name,
        "columns": trained.encoders.columns(labels=False),
        "inputs": [each.described() for each in inputs],
        "outputs": [
            {
                "name": task.name,
                "kind": task.kind,
                "column": columns[task.name],
                "shape": ["rows", task.outputs] if task.kind == "multiclass" else ["rows"],
                "dtype": "float32",
            }
            for task in trained.tasks.tasks
        ],
    }


def _by_task(tasks: TaskSet, found_BO: Tensor) -> dict[str, Tensor]:
    return {
        task.name: found_BO[:, where if task.kind == "multiclass" else where.start].clone()
        for task in tasks.tasks
        for where in (tasks.columns[task.name],)
    }


def _table_bytes(
    about: Layout, net: ServingNet, weights: Mapping[str, Tensor]
) -> dict[str, dict[str, int]]:
    return {
        table.name: {
            "before": weights[table.name].nbytes,
            "after": sum(tensor.nbytes for tensor in rows.buffers()),
        }
        for table, rows in zip(about.tables, net.tables, strict=True)
    }


def _require_equal(found: Mapping[str, float], name: str) -> None:
    problems = [
        f"`--format {name}`: what the exported model says of task `{task}` is {difference:.1e} from"
        f" what the run says, more than {TOLERANCE:.0e}. Nothing was written; choose another "
        "format, and report this."
        for task, difference in found.items()
        if not difference <= TOLERANCE
    ]
    if problems:
        raise RecMTLError.all_of(problems)
