"""Encoders on disk: JSON, a Parquet file for each vocabulary, and the sha256 of every file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recmtl._files import atomic_folder, is_name, sha256_of, write_json
from recmtl.data.dense import DenseScale
from recmtl.data.files import first_line
from recmtl.data.fitted import Fitted
from recmtl.data.labels import Population, Rate
from recmtl.data.mappers import BucketMapper, HashMapper, IdFamily, Mapper, VocabMapper
from recmtl.data.vectors import VectorScale
from recmtl.data.vocab import Vocabulary
from recmtl.errors import CheckpointError, RecMTLError
from recmtl.spec import Spec

__all__ = ["FORMAT", "load", "save"]

FORMAT = 2
"""Version of the format."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Table(_Strict):
    """How values become the rows of a table."""

    name: str
    kind: Literal["vocab", "hash", "buckets"]
    family: IdFamily
    rows: int
    size: int | None = None
    borders: tuple[float, ...] = ()
    file: Annotated[str, Field(pattern=r"^vocab-\d{4,9}\.parquet$")] = "vocab-0000.parquet"
    counts: Annotated[str, Field(pattern=r"^counts-\d{4,9}\.parquet$")] | None = None
    """How often each row is looked up."""
    rare: Annotated[str, Field(pattern=r"^rare-\d{4,9}\.parquet$")] | None = None
    """The ids that a vocabulary left out, and their counts."""


class _VectorScale(_Strict):
    """What normalises the components of a vector."""

    shift: tuple[float, ...]
    scale: tuple[Annotated[float, Field(gt=0)], ...]


_Share = Annotated[float, Field(ge=0, le=1)]


class _State(_Strict):
    """What encoders.json holds."""

    format: int
    spec: Spec
    num_rows: Annotated[int, Field(ge=0, lt=2**62)]
    single: tuple[str, ...]
    bags: tuple[str, ...]
    mean_lengths: dict[str, Annotated[float, Field(ge=0)]]
    scales: dict[str, tuple[float, Annotated[float, Field(gt=0)]]]
    vector_scales: dict[str, _VectorScale] = {}
    base_rates: dict[str, _Share | tuple[_Share, ...]]
    label_scales: dict[str, tuple[float, float]]
    populations: dict[str, tuple[int, int]]
    tables: tuple[_Table, ...]


def save(fitted: Fitted, folder: Path) -> None:
    """Write all files, or none; a folder that is there is replaced."""
    with atomic_folder(folder) as temporary:
        tables = [
            _save_table(name, mapper, temporary)
            | _save_counts(name, fitted, temporary)
            | _save_rare(name, fitted, temporary)
            for name, mapper in fitted.mappers.items()
        ]
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
                "vector_scales": {
                    name: {"shift": scale.shift_V.tolist(), "scale": scale.scale_V.tolist()}
                    for name, scale in fitted.vector_scales.items()
                },
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
    unlisted = sorted({"encoders.json"} - sums.keys())
    for name, expected in sums.items():
        file = folder / name
        if not is_name(name) or not isinstance(expected, str):
            unlisted.append(name)
            continue
        if not file.is_file() or file.is_symlink():
            raise CheckpointError(f"{file}: the file is missing. Restore it, or train again.")
        if sha256_of(file) != expected:
            raise CheckpointError(
                f"{file}: the file is corrupt (its sha256 is another one). Restore it, or train "
                "again."
            )
    if unlisted:
        raise CheckpointError(
            f"{folder / 'files.json'}: {unlisted[0][:100]!r} is no file beside it with its sha256;"
            " it was not written by recmtl. Restore it, or train again."
        )
    path = folder / "encoders.json"
    state = _read_json(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: this is format {state.get('format')}, expected {FORMAT}. Train again."
        )
    try:
        return _restore(path.read_text(encoding="utf-8"), folder)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])[:100]
        what = f"{at}: {first['msg']}"
    except (ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, RecMTLError):
            raise
        what = str(error)[:200]
    raise CheckpointError(f"{path}: the content is not that of encoders ({what}). Train again.")


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


def _save_counts(name: str, fitted: Fitted, folder: Path) -> dict[str, Any]:
    if name not in fitted.counts:
        return {}
    file = f"counts-{[*fitted.counts].index(name):04d}.parquet"
    frame = pl.DataFrame({"count": fitted.counts[name]()})
    frame.write_parquet(folder / file, compression="zstd")
    return {"counts": file}


def _save_rare(name: str, fitted: Fitted, folder: Path) -> dict[str, Any]:
    if name not in fitted.rare:
        return {}
    file = f"rare-{[*fitted.rare].index(name):04d}.parquet"
    fitted.rare[name]().write_parquet(folder / file, compression="zstd")
    return {"rare": file}


def _restore(text: str, folder: Path) -> Fitted:
    state = _State.model_validate_json(text)
    spec = state.spec
    fitted = Fitted(
        spec=spec,
        mappers={table.name: _restore_table(table, folder) for table in state.tables},
        counts={
            table.name: partial(_restore_counts, table.rows, folder / table.counts)
            for table in state.tables
            if table.counts is not None
        },
        rare={
            table.name: partial(_restore_ids, folder / table.rare, "table of rare ids")
            for table in state.tables
            if table.rare is not None
        },
        scales={name: DenseScale(*scale) for name, scale in state.scales.items()},
        vector_scales={
            name: VectorScale(np.array(scale.shift), np.array(scale.scale))
            for name, scale in state.vector_scales.items()
        },
        single=state.single,
        bags=state.bags,
        mean_lengths=state.mean_lengths,
        base_rates=state.base_rates,
        label_scales=state.label_scales,
        populations={name: Population(*counts) for name, counts in state.populations.items()},
        num_rows=state.num_rows,
    )
    lists = {*state.bags, *(feature.name for feature in spec.sequences)}
    heads = [task for task in spec.tasks if task.product_of is None and task.kind != "regression"]
    parts: dict[str, tuple[set[Any], set[Any]]] = {
        "tables": (set(fitted.mappers), set(spec.tables)),
        "single and bags": ({*state.single, *state.bags}, {f.name for f in spec.sparse}),
        "scales": (set(fitted.scales), {feature.name for feature in spec.dense}),
        "vector_scales": (
            {(name, len(s.shift), len(s.scale)) for name, s in state.vector_scales.items()},
            {(f.name, f.dim, f.dim) for f in spec.vectors if f.normalize == "standard"},
        ),
        "mean_lengths": (set(fitted.mean_lengths), lists),
        "base_rates": (
            {(name, _classes_of(rate)) for name, rate in fitted.base_rates.items()},
            {(task.name, task.classes) for task in heads},
        ),
    }
    wrong = [name for name, (found, expected) in parts.items() if found != expected]
    if "tables" not in wrong:
        tables = [table for table in state.tables if not _is_of(table, fitted)]
        wrong += [f"table {table.name}" for table in tables]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not those of its spec")
    return fitted


def _classes_of(rate: Rate) -> int | None:
    """For how many classes a rate is; None for a share of positives, -1 for what is no rate."""
    if not isinstance(rate, tuple):
        return None
    return len(rate) if abs(sum(rate) - 1) < 1e-6 else -1


def _is_of(table: _Table, fitted: Fitted) -> bool:
    """Whether a table is what the spec says of it."""
    owner, mapper = fitted.spec.table_owner(table.name), fitted.mappers[table.name]
    kinds = {"vocab": owner.vocab is not None, "hash": owner.hash is not None}
    return (
        kinds.get(table.kind, owner.buckets is not None)
        and (table.kind != "hash" or table.size == owner.hash)
        and (mapper.rows, mapper.family) == (table.rows, table.family)
    )


def _restore_table(table: _Table, folder: Path) -> Mapper:
    if table.kind == "hash":
        return HashMapper(table.size or 0, table.family)
    if table.kind == "buckets":
        return BucketMapper(np.array(table.borders, np.float64))
    file = folder / table.file
    frame = _restore_ids(file, "vocabulary")
    if len(frame) + 1 != table.rows:
        raise CheckpointError(
            f"{file}: has {len(frame)} ids, expected {table.rows - 1}. Train again."
        )
    return VocabMapper(Vocabulary(frame["id"], frame["count"]))


def _restore_ids(file: Path, what: str) -> pl.DataFrame:
    frame = _read_columns(file, ["id", "count"], what)
    ids = frame["id"]
    if ids.dtype not in (pl.Int64, pl.String) or ids.null_count() or not ids.is_unique().all():
        raise CheckpointError(f"{file}: its ids are not those of a {what}. Train again.")
    return frame


def _restore_counts(num_rows: int, file: Path) -> NDArray[np.uint32]:
    counts = _read_columns(file, ["count"], "table of counts")["count"]
    if counts.dtype != pl.UInt32 or counts.null_count() or len(counts) != num_rows:
        raise CheckpointError(
            f"{file}: its counts are not those of a table of {num_rows} rows. Train again."
        )
    return counts.to_numpy()


def _read_columns(file: Path, columns: list[str], what: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(file, glob=False, columns=columns)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CheckpointError(
            f"{file}: is no {what} ({first_line(error)}). Restore it, or train again."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: the file is missing: there are no encoders here. Train first."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the file is corrupt ({error}). Restore it, or train again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the file is corrupt (no JSON object). Restore it, or train again."
        )
    return content
