"""Score a log part by part: Parquet out, each part whole or absent, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recmtl._files import (
    atomic_path,
    exclusive,
    is_leftover,
    sha256_of,
    sweep_within,
    write_json,
)
from recmtl._progress import Progress, no_progress
from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Log, check_columns, open_log
from recmtl.embeddings.plain import TablePrecision
from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.scoring.scorer import FORWARD_ROWS, BatchScorer

__all__ = ["PART_ROWS", "ScoreResult", "score"]

PART_ROWS = 65_536
"""Input rows of one part."""
_COUNTS = "recmtl.counts"
_CLAIM = ".scoring.json"


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What `score` did."""

    rows: int
    """Rows of the input, and so of the output."""
    parts: int
    """Parts of the output."""
    rows_per_s: float
    """Rows scored in this call per second (0 where all parts were there already)."""


def score(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    tables: TablePrecision = "fp32",
    calibrated: bool = True,
    progress: Progress = no_progress,
) -> ScoreResult:
    """Write the scores of a log as `part-00000.parquet`, ..., and `manifest.json`.

    A part has 65,536 input rows. Parts appear atomically and in input order; a call that was
    killed is continued by the same call, with an output equal bit for bit to that of a call that
    was not.

    Args:
        run: the folder of a run.
        data: Parquet or CSV file, folder or glob; labels are not needed.
        out: folder of the output.
        keep: columns to copy (default: `data.keep` of the run's spec).
        tables: how embedding rows are kept, see `BatchScorer`.
        calibrated: whether tasks that the run has calibrators of are calibrated.
        progress: shows the rows done (see `recmtl._progress`).

    Raises:
        CheckpointError: the run is corrupt, or `out` holds scores of another run or other data.
        DataError: a column is missing or has another type than in training; a file is corrupt.
        SpecError: `out` holds something that is not scores, or `tables` is unknown.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise SpecError(f"{out}: is a file. Choose another `--out`.")
    scorer = BatchScorer(run, keep=keep or None, tables=tables, calibrated=calibrated)
    with ThreadPoolExecutor(1, "recmtl-verify") as aside:
        verified = aside.submit(lambda: scorer.verified)  # hashing leaves Python free
        log = _open(scorer, data)
        verified.result()
    _ = scorer.net  # a run that cannot score writes nothing
    identity = {
        "model": scorer.fingerprint,
        "data": log.fingerprint,
        "keep": list(scorer.keep),
        "part_rows": PART_ROWS,
        "tables": tables,
        "calibrated": calibrated,
    }
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        return _score(scorer, log, out, identity, _claim(out, identity), progress)


def _open(scorer: BatchScorer, data: str | Path) -> Log:
    """The log to be scored; its columns are there and have the types of training."""
    log = open_log(data, columns=scorer.encoders.wanted(labels=False, keep=scorer.keep))
    check_columns(log, scorer.run.config, labels=False)
    scorer.require(log.schema.names(), f"{data}: ")
    _encode(scorer, log, 0, 0)  # types of columns that only their values tell
    return log


def _score(
    scorer: BatchScorer,
    log: Log,
    out: Path,
    identity: dict[str, Any],
    files: dict[str, str],
    progress: Progress,
) -> ScoreResult:
    num_parts = -(-log.num_rows // PART_ROWS)
    counts = EncodeCounts()
    todo = []
    for part in range(num_parts):
        found = _read_counts(_part(out, part), files)
        if found is None:
            todo.append(part)
        else:
            counts.add(found)
    started, scored = time.perf_counter(), 0
    before = log.num_rows - sum(_rows(log, part) for part in todo)

    def write(part: int, tables: Sequence[pl.DataFrame], part_counts: EncodeCounts) -> None:
        with atomic_path(_part(out, part), tidy=False) as path:
            pl.concat(tables).write_parquet(
                path, metadata={_COUNTS: json.dumps(part_counts.to_dict())}
            )
            files[_part(out, part).name] = sha256_of(path)
        write_json(out / _CLAIM, {**identity, "files": dict(sorted(files.items()))})

    with (
        progress("score", log.num_rows, "rows", done=before) as bar,
        ThreadPoolExecutor(1, "recmtl-write") as writer,
    ):
        pieces = _encoded(scorer, log, todo)
        written: Future[None] | None = None
        for part in todo:
            tables, part_counts, rows = [], EncodeCounts(), 0
            while rows < _rows(log, part):
                frame, batch, piece_counts = next(pieces)
                tables.append(scorer.with_scores(frame, batch))
                part_counts.add(piece_counts)
                rows += len(batch)
                bar.advance(len(batch))
            if written is not None:
                written.result()
            written = writer.submit(write, part, tables, part_counts)
            counts.add(part_counts)
            scored += rows
        if written is not None:
            written.result()
    seconds = time.perf_counter() - started
    manifest = {
        **identity,
        "rows": log.num_rows,
        "parts": num_parts,
        "columns": [*scorer.keep, *scorer.columns().values()],
        "features": counts.to_dict(),
        "files": dict(sorted(files.items())),
    }
    write_json(out / "manifest.json", manifest)
    (out / _CLAIM).unlink(missing_ok=True)
    sweep_within(out)
    return ScoreResult(
        rows=log.num_rows, parts=num_parts, rows_per_s=round(scored / seconds, 1) if scored else 0.0
    )


def _encoded(
    scorer: BatchScorer, log: Log, parts: Sequence[int]
) -> Iterator[tuple[pl.DataFrame, Batch, EncodeCounts]]:
    """The rows of all parts piece by piece, read and encoded one piece ahead in a thread."""
    log.require_room(_columns(scorer), scorer.run.config.data.memory_bytes)
    # Whole forward passes, whatever the budget: their size decides the last bits of a score.
    piece_rows = max(scorer.encoders.piece_rows // FORWARD_ROWS, 1) * FORWARD_ROWS

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="recmtl-score") as thread:
        ahead: Future[tuple[pl.DataFrame, Batch, EncodeCounts]] | None = None
        for part in parts:
            first, last = part * PART_ROWS, part * PART_ROWS + _rows(log, part)
            for start in range(first, last, piece_rows):
                ready, ahead = (
                    ahead,
                    thread.submit(_encode, scorer, log, start, min(start + piece_rows, last)),
                )
                if ready is not None:
                    yield ready.result()
        if ahead is not None:
            yield ahead.result()


def _columns(scorer: BatchScorer) -> list[str]:
    return list(dict.fromkeys((*scorer.encoders.columns(labels=False), *scorer.keep)))


def _encode(
    scorer: BatchScorer, log: Log, start: int, stop: int
) -> tuple[pl.DataFrame, Batch, EncodeCounts]:
    """Kept columns of some rows, the rows encoded, and what was counted."""
    counts = EncodeCounts()
    frame = log.read(_columns(scorer), start, stop)
    try:
        rows = np.arange(start, stop)
        batch = scorer.encoders.encode(frame, labels=False, rows=rows, counts=counts)
    except DataError as error:
        where = f"{log.name}, rows {start} to {stop - 1}" if stop > start else log.name
        raise error.at(where) from error
    return frame.select(scorer.keep), batch, counts


def _claim(out: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Make `out` the place of these scores, or go on where the same call was stopped.

    Returns:
        The sha256 of each part that is finished; a part without one is scored again.
    """
    found = next((out / name for name in ("manifest.json", _CLAIM) if (out / name).is_file()), None)
    if found is None:
        if any(not is_leftover(file.name, _CLAIM) for file in out.iterdir()):
            raise SpecError(
                f"{out}: exists and holds something else than scores. Choose another `--out`."
            )
        write_json(out / _CLAIM, {**identity, "files": {}})
        return {}
    try:
        before = json.loads(found.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict) or not before.keys() >= identity.keys():
        raise SpecError(
            f"{out}: exists and holds something else than scores. Choose another `--out`."
        )
    words = {
        "model": "another model",
        "data": "other data",
        "keep": "other kept columns",
        "part_rows": "parts of another size",
        "tables": "tables of another precision",
        "calibrated": "or without calibration",
    }
    other = [what for key, what in words.items() if before[key] != identity[key]]
    if other and any(out.glob("part-*.parquet")):
        raise CheckpointError(
            f"{out}: holds scores with {other[0]}. Choose another `--out`, or remove it."
        )
    if other:  # that call failed before it wrote a score
        found.unlink()
        write_json(out / _CLAIM, {**identity, "files": {}})
        return {}
    files = before.get("files")
    return dict(files) if isinstance(files, dict) else {}


def _part(out: Path, part: int) -> Path:
    return out / f"part-{part:05d}.parquet"


def _rows(log: Log, part: int) -> int:
    return min(PART_ROWS, log.num_rows - part * PART_ROWS)


def _read_counts(path: Path, files: dict[str, str]) -> EncodeCounts | None:
    """What was counted while a part was encoded; None where it is not there or not finished."""
    if not path.is_file() or path.name not in files:
        return None
    if sha256_of(path) != files[path.name]:
        raise CheckpointError(
            f"{path}: is corrupt, or not the file that was written here (its sha256 is another "
            "one). Remove it and score again."
        )
    return EncodeCounts.from_dict(json.loads(pl.read_parquet_metadata(path)[_COUNTS]))
