"""Encoders on disk: JSON, a Parquet file for each vocabulary, and the sha256 of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from recmtl._files import atomic_folder, sha256_of, write_json
from recmtl.data.dense import DenseScale
from recmtl.data.fit import Fitted
from recmtl.data.labels import Population, Rate
from recmtl.data.mappers import BucketMapper, HashMapper, Mapper, VocabMapper
from recmtl.data.vocab import Vocabulary
from recmtl.errors import CheckpointError
from recmtl.spec import Spec

__all__ = ["FORMAT", "load", "save"]

FORMAT = 1
"""Version of the format."""


def save(fitted: Fitted, folder: Path) -> None:
    """Write all files, or none; a folder that is there is replaced."""
    with atomic_folder(folder) as temporary:
        tables = [_save_table(name, mapper, temporary) for name, mapper in fitted.mappers.items()]
        write_json(
            temporary / "encoders.json",
            {
                "format": FORMAT,
                "spec": fitted.spec.model_dump(mode="json"),
                "num_rows": fitted.num_rows,
                "single": fitted.single,
                "bags": fitted.bags,
                "mean_lengths": fitted.mean_lengths,
                "scales": fitted.scales,
                "base_rates": fitted.base_rates,
                "label_scales": fitted.label_scales,
                "populations": fitted.populations,
                "tables": tables,
            },
        )
        sums = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / "files.json", sums)


def load(folder: Path) -> Fitted:
    """Read what `save` wrote.

    Raises:
        CheckpointError: a file is missing, corrupt, or of another version.
    """
    sums = _read_json(folder / "files.json")
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: the file is missing. Restore it, or train again.")
        if sha256_of(file) != expected:
            raise CheckpointError(
                f"{file}: the file is corrupt (its sha256 is another one). Restore it, or train "
                "again."
            )
    path = folder / "encoders.json"
    state = _read_json(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: this is format {state.get('format')}, expected {FORMAT}. Train again."
        )
    try:
        return _restore(state, folder)
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"{path}: the content is not that of encoders ({error!r}). Train again."
        ) from error


def _save_table(name: str, mapper: Mapper, folder: Path) -> dict[str, Any]:
    if isinstance(mapper, VocabMapper):
        number = sum(1 for _ in folder.glob("vocab-*.parquet"))
        file = f"vocab-{number:04d}.parquet"
        frame = pl.DataFrame({"id": mapper.vocab.ids, "count": mapper.vocab.counts})
        frame.write_parquet(folder / file, compression="zstd")
        return {
            "name": name,
            "kind": "vocab",
            "family": mapper.family,
            "rows": mapper.rows,
            "file": file,
        }
    if isinstance(mapper, HashMapper):
        return {
            "name": name,
            "kind": "hash",
            "family": mapper.family,
            "rows": mapper.rows,
            "size": mapper.size,
        }
    assert isinstance(mapper, BucketMapper)
    borders = mapper.borders.tolist()
    return {
        "name": name,
        "kind": "buckets",
        "family": mapper.family,
        "rows": mapper.rows,
        "borders": borders,
    }


def _restore(state: dict[str, Any], folder: Path) -> Fitted:
    return Fitted(
        spec=Spec.model_validate_json(json.dumps(state["spec"])),
        mappers={table["name"]: _restore_table(table, folder) for table in state["tables"]},
        scales={name: DenseScale(*scale) for name, scale in state["scales"].items()},
        single=tuple(state["single"]),
        bags=tuple(state["bags"]),
        mean_lengths=state["mean_lengths"],
        base_rates={name: _rate(rate) for name, rate in state["base_rates"].items()},
        label_scales={name: (mean, std) for name, (mean, std) in state["label_scales"].items()},
        populations={name: Population(*counts) for name, counts in state["populations"].items()},
        num_rows=state["num_rows"],
    )


def _rate(rate: float | list[float]) -> Rate:
    return tuple(rate) if isinstance(rate, list) else rate


def _restore_table(table: dict[str, Any], folder: Path) -> Mapper:
    if table["kind"] == "hash":
        return HashMapper(table["size"], table["family"])
    if table["kind"] == "buckets":
        return BucketMapper(np.array(table["borders"], np.float64))
    file = folder / table["file"]
    frame = pl.read_parquet(file, glob=False)
    if len(frame) + 1 != table["rows"]:
        raise CheckpointError(
            f"{file}: has {len(frame)} ids, expected {table['rows'] - 1}. Train again."
        )
    return VocabMapper(Vocabulary(frame["id"], frame["count"]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: the file is missing: there are no encoders here. Train first."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the file is corrupt ({error}). Restore it, or train again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the file is corrupt (no JSON object). Restore it, or train again."
        )
    return content
