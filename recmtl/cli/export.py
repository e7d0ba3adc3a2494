"""`recmtl export RUN --format FORMAT --out DIR`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import calibrated_option, debug_option, emit, json_option

if TYPE_CHECKING:
    from recmtl.exporting import ExportResult

__all__ = ["command"]


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "torch-export", "aoti", "onnx"]),
    required=True,
    help="All tensors by name, a graph for PyTorch, machine code, or ONNX.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the export.")
@click.option(
    "--tables",
    type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    default="fp32",
    show_default=True,
    help="How embedding rows are kept; what it costs is measured.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the data, for the golden batch and what `--tables` cost (default: where it was"
    " in training).",
)
@calibrated_option
@json_option
@debug_option
def command(
    run: Path,
    form: Literal["safetensors", "torch-export", "aoti", "onnx"],
    out: Path,
    tables: Literal["fp32", "fp16", "int8", "int4"],
    data: Path | None,
    calibrated: bool,
    as_json: bool,
) -> None:
    """Write a run as something that can be served, with a certificate.

    The folder holds the model, the encoders, the model's inputs and outputs in words, and a golden
    batch that `recmtl verify` checks anywhere.
    """
    from recmtl import api

    result = api.export(
        run,
        out,
        format=form,
        tables=tables,
        data=data,
        calibrated=calibrated,
        progress=terminal_progress(),
        notify=lambda text: click.echo(text, err=True),
    )
    emit(asdict(result), as_json=as_json, text=_text(result))


def _text(result: ExportResult) -> str:
    largest = ", ".join(f"{task} {d:.1e}" for task, d in result.max_abs_difference.items())
    lines = [
        f"{result.out}: {result.format}, tables {result.tables}, {result.files} files, "
        f"{result.size_bytes / 2**20:,.1f} MiB",
        f"largest difference to the run's own model: {largest}",
    ]
    if result.tables != "fp32":
        changes = ", ".join(f"{task} {d:.1e}" for task, d in result.cost["golden"].items())
        lines.append(f"{result.tables} tables change a prediction by at most: {changes}")
        validation = result.cost["validation"] or {"tasks": {}}
        lines += [
            f"{task}, {metrics['n']:,} validation rows: "
            + ", ".join(
                f"{metric} {_number(both['before'])} -> {_number(both['after'])}"
                for metric, both in metrics.items()
                if metric != "n"
            )
            for task, metrics in validation["tasks"].items()
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"
