"""The log that every speed is measured on: 20 ids of Zipf, 8 numbers, clicks and conversions.

    python examples/benchmarks/workload.py runs/workload --rows 1048576

It writes `train.parquet` and `test.parquet`, of the same world, and one spec for each tower. Ids
are numbers from 0 to the size of their table - 1, so that any package can use them as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = [
    "DENSE",
    "DIM",
    "IDS",
    "MAX_LEN",
    "SEQUENCES",
    "SIZES",
    "TOWERS",
    "spec",
    "write",
    "zipf",
]

SIZES = (
    *(10, 10, 20, 20, 50, 50, 100, 400, 300, 980, 1_000, 2_000, 5_000, 10_000, 20_000),
    *(50_000, 100_000, 200_000, 1_000_000, 1_000_000),
)
"""Ids of each categorical field; 2,389,940 in all."""
DIM = 16
IDS = tuple(f"id_{i}" for i in range(len(SIZES)))
DENSE = tuple(f"x_{i}" for i in range(8))
SEQUENCES = ("seen", "bought")
"""Lists of the ids of `id_14` and `id_15`, oldest first."""
MAX_LEN = 20
GROUP_ROWS = 1 << 17
TOWERS = {
    "mmoe": "{kind: mmoe, num_experts: 8, expert_widths: [128, 64], head_widths: [32]}",
    "ple": "{kind: ple, num_levels: 2, num_shared_experts: 4, num_task_experts: 2, "
    "expert_widths: [128, 64], head_widths: [32]}",
    "esmm": "{kind: esmm, head_widths: [128, 64]}",
    "shared_bottom": "{kind: shared_bottom, expert_widths: [128, 64], head_widths: [32]}",
}


def write(folder: Path, rows: int, *, test_rows: int = 131_072, sequences: bool = False) -> None:
    """Write the logs and specs, unless they are there."""
    if (folder / "ready").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    world = _World()
    for name, count, seed in (("train", rows, 1), ("test", test_rows, 2)):
        rng = np.random.default_rng(seed)
        writer = None
        for start in range(0, count, GROUP_ROWS):
            part = world.rows(rng, min(GROUP_ROWS, count - start), sequences=sequences)
            if writer is None:
                path = folder / f"{name}.parquet"
                writer = pq.ParquetWriter(path, part.schema, compression="zstd")
            writer.write_table(part, row_group_size=GROUP_ROWS)
        assert writer is not None
        writer.close()
    for tower in TOWERS:
        (folder / f"{tower}.yaml").write_text(spec(tower, sequences=sequences), encoding="utf-8")
    (folder / "ready").touch()


def spec(
    tower: str,
    *,
    sequences: bool = False,
    ids: str = "vocab: {{}}",
    batch_size: int = 4096,
    epochs: int = 1,
) -> str:
    """A spec of the log as YAML; `ids` says how an id becomes a row, `{size}` is its table's."""
    lines = [
        f"name: workload_{tower}",
        "data: {train: train.parquet, valid: test.parquet, memory: 1GiB}",
        "features:",
        *(
            f"  - {{name: {name}, type: sparse, {ids.format(size=size)}, dim: {DIM}}}"
            for name, size in zip(IDS, SIZES, strict=True)
        ),
    ]
    if sequences:
        lines += [
            f"  - {{name: {name}, type: sequence, table: id_{14 + i}, max_len: {MAX_LEN}, "
            f"behaviour: {name}}}"
            for i, name in enumerate(SEQUENCES)
        ]
    return "\n".join(
        [
            *lines,
            *(f"  - {{name: {name}, type: dense}}" for name in DENSE),
            "tasks:",
            "  - {name: ctr, label: click}",
            "  - {name: cvr, label: conversion, given: click}",
            "  - {name: ctcvr, label: conversion, product_of: [ctr, cvr]}",
            f"tower: {TOWERS[tower]}",
            f"train: {{batch_size: {batch_size}, epochs: {epochs}, lr: 0.001}}",
            "",
        ]
    )


class _World:
    """What ids and numbers do to clicks and conversions."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._effects = [rng.normal(0, 0.25, (2, size)) for size in SIZES]
        self._slopes = rng.normal(0, 0.15, (2, len(DENSE)))
        self._probabilities = [zipf(size) for size in SIZES]

    def rows(self, rng: np.random.Generator, count: int, *, sequences: bool) -> pa.Table:
        """The next rows."""
        columns: dict[str, pa.Array | NDArray[np.generic]] = {}
        logits = np.repeat([[-1.6], [-1.2]], count, axis=1)
        for name, ends, effects in zip(IDS, self._probabilities, self._effects, strict=True):
            ids = np.searchsorted(ends, rng.random(count), side="right")
            columns[name] = ids.astype(np.int64)
            logits += effects[:, ids]
        numbers = rng.normal(size=(len(DENSE), count))
        columns |= zip(DENSE, numbers.astype(np.float32), strict=True)
        logits += self._slopes @ numbers
        if sequences:
            for i, name in enumerate(SEQUENCES, start=14):
                lengths = rng.integers(0, MAX_LEN + 1, count)
                ids = np.searchsorted(
                    self._probabilities[i], rng.random(lengths.sum()), side="right"
                )
                offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
                columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
        click, conversion = rng.random((2, count)) < 1 / (1 + np.exp(-logits))
        columns["click"] = click.astype(np.int8)
        columns["conversion"] = (click & conversion).astype(np.int8)
        return pa.table(columns)


def zipf(size: int) -> NDArray[np.float64]:
    """Cumulated probabilities of ids whose frequency falls with their rank."""
    ends = (1.0 / np.arange(1, size + 1) ** 1.05).cumsum()
    return ends / ends[-1]


def main() -> None:
    """Write the log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--sequences", action="store_true")
    args = parser.parse_args()
    write(args.folder, args.rows, sequences=args.sequences)


if __name__ == "__main__":
    main()
