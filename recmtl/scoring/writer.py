"""Score a log part by part: Parquet out, each part whole or absent, resumable."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recmtl._files import exclusive, is_leftover, sha256_of, sweep_within, write_json
from recmtl._progress import Progress, no_progress
from recmtl.data import Log
from recmtl.data.stamp import stamp_of
from recmtl.embeddings.plain import TablePrecision
from recmtl.errors import CheckpointError, SpecError
from recmtl.run import CALIBRATION
from recmtl.scoring.drift import THRESHOLD, Reference, compare, read_reference
from recmtl.scoring.parts import (
    Job,
    new_stats,
    open_for_scoring,
    read_stats,
    write_parts,
)
from recmtl.scoring.scorer import BatchScorer
from recmtl.scoring.workers import Shares, Workers

__all__ = ["PART_ROWS", "ScoreResult", "score"]

PART_ROWS = 65_536
"""Input rows of one part."""
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
    drift: dict[str, Any]
    """How the log differs from the rows that the run was validated with (see `compare`)."""


def score(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    tables: TablePrecision = "fp32",
    calibrated: bool = True,
    workers: int = 1,
    drift_threshold: float = THRESHOLD,
    progress: Progress = no_progress,
) -> ScoreResult:
    """Write the scores of a log as `part-00000.parquet`, ..., and `manifest.json`.

    A part has 65,536 input rows. Parts appear atomically and in input order; a call that was
    killed is continued by the same call, with any number of workers. The output is equal bit for
    bit, however many workers there are and however often they were killed.

    Args:
        run: the folder of a run.
        data: Parquet or CSV file, folder or glob; labels are not needed.
        out: folder of the output.
        keep: columns to copy (default: `data.keep` of the run's spec).
        tables: how embedding rows are kept, see `BatchScorer`.
        calibrated: whether tasks that the run has calibrators of are calibrated.
        workers: processes, of which this is one. They share the budget `data.memory` and torch's
            threads evenly; each holds its own tables of up to 256 MiB (larger ones are mapped).
        drift_threshold: population stability index above which a feature or a task's scores are
            called drifted (see `recmtl.scoring.drift.compare`).
        progress: shows the rows done (see `recmtl._progress`).

    Raises:
        CheckpointError: the run is corrupt, or `out` holds scores of another run or other data.
        DataError: a column is missing or has another type than in training; a file is corrupt.
        SpecError: `out` holds something that is not scores, or an option is not as it should be.
        RecMTLError: a worker was killed.
    """
    out = Path(out)
    _check_options(out, workers, drift_threshold)
    scorer = BatchScorer(run, keep=keep or None, tables=tables, calibrated=calibrated)
    with ThreadPoolExecutor(1, "recmtl-verify") as aside:
        verified = aside.submit(lambda: scorer.verified)  # hashing leaves Python free
        log = open_for_scoring(scorer, data)
        verified.result()
    reference = read_reference(scorer)
    calibration = scorer.run.path / CALIBRATION
    is_calibrated = calibrated and calibration.is_file()
    _ = scorer.net  # a run that cannot score writes nothing
    identity = {
        "model": scorer.fingerprint,
        "data": log.fingerprint,
        "keep": list(scorer.keep),
        "part_rows": PART_ROWS,
        "tables": tables,
        "calibration": sha256_of(calibration) if is_calibrated else None,
    }
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out) as lock:
        call = _Call(scorer, log, str(data), out, reference, identity, _claim(out, identity))
        return call.run(workers, drift_threshold, lock, progress)


def _check_options(out: Path, workers: int, drift_threshold: float) -> None:
    problems = []
    if out.exists() and not out.is_dir():
        problems.append(f"{out}: is a file. Choose another `--out`.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        problems.append(f"`workers` must be a positive integer, got {workers!r}.")
    if not 0 < drift_threshold < math.inf:
        problems.append(f"`drift_threshold` must be a number above 0, got {drift_threshold!r}.")
    if problems:
        raise SpecError.all_of(problems)


class _Call:
    """One call of `score`, in a folder that it holds.

    Args:
        scorer: the run.
        log: the rows.
        data: what the log was opened as.
        out: the folder.
        reference: what the log is compared with.
        identity: what makes scores those of this call.
        files: the sha256 of each part that is finished.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        log: Log,
        data: str,
        out: Path,
        reference: Reference | None,
        identity: dict[str, Any],
        files: dict[str, str],
    ) -> None:
        self.scorer, self.log, self.data, self.out = scorer, log, data, out
        self.reference, self.identity, self.files = reference, identity, files
        self.num_parts = -(-log.num_rows // PART_ROWS)
        self._recording = threading.Lock()

    def run(self, workers: int, threshold: float, lock: int, progress: Progress) -> ScoreResult:
        """Score what is left, and sum up."""
        whole = self._job(1)
        todo = [part for part in range(self.num_parts) if not self._is_finished(whole.path(part))]
        left = sum(whole.rows(part) for part in todo)
        seconds = self._score(todo, left, min(workers, len(todo)), lock, progress)
        stats = new_stats(self.scorer, self.reference)
        for part in range(self.num_parts):
            found = read_stats(self.scorer, whole.path(part), self.reference)
            assert found is not None
            stats.merge(found)
        drift = compare(stats, self.reference, threshold)
        manifest = {
            **self.identity,
            "rows": self.log.num_rows,
            "parts": self.num_parts,
            "columns": [*self.scorer.keep, *self.scorer.columns().values()],
            "features": stats.counts.to_dict(),
            "drift": drift,
            "files": dict(sorted(self.files.items())),
        }
        write_json(self.out / "manifest.json", manifest)
        (self.out / _CLAIM).unlink(missing_ok=True)
        sweep_within(self.out)
        return ScoreResult(
            rows=self.log.num_rows,
            parts=self.num_parts,
            rows_per_s=round(left / seconds, 1) if left else 0.0,
            drift=drift,
        )

    def _score(
        self, todo: list[int], left: int, workers: int, lock: int, progress: Progress
    ) -> float:
        """Score parts; returns the seconds that it took."""
        if not todo:
            return 0.0
        started = time.perf_counter()
        memory_bytes = self.scorer.run.config.data.memory_bytes
        columns = [*self.scorer.encoders.columns(labels=False), *self.scorer.keep]
        self.log.require_room([*dict.fromkeys(columns)], memory_bytes, readers=workers)
        self._note()
        (self.out / "manifest.json").unlink(missing_ok=True)
        shares, job = Shares(todo, workers), self._job(workers)
        total = self.log.num_rows
        try:
            with (
                progress("score", total, "rows", done=total - left) as bar,
                Workers(
                    shares,
                    self._for_a_child(job),
                    count=workers - 1,
                    lock=lock,
                    on_written=lambda part, sha256: self._record(job.path(part), sha256),
                ) as others,
            ):
                write_parts(
                    self.scorer,
                    self.log,
                    job,
                    shares.of(0),
                    reference=self.reference,
                    on_rows=lambda rows: bar.advance(rows + others.new_rows()),
                    on_written=lambda part, sha256: self._record(job.path(part), sha256),
                )
                for rows in others.wait():
                    bar.advance(rows)
        except BaseException:
            sweep_within(self.out)  # of children that had to leave
            raise
        return time.perf_counter() - started

    def _job(self, workers: int) -> Job:
        """The share of one of several workers in budget and threads."""
        return Job(
            out=self.out,
            num_rows=self.log.num_rows,
            part_rows=PART_ROWS,
            memory_bytes=self.scorer.run.config.data.memory_bytes // workers,
            threads=max(torch.get_num_threads() // workers, 1),
        )

    def _for_a_child(self, job: Job) -> dict[str, Any]:
        """What another process needs to do the same, as JSON."""
        return {
            **asdict(job),
            "out": str(job.out),
            "run": str(self.scorer.run.path),
            "data": self.data,
            "keep": list(self.scorer.keep),
            "tables": self.scorer.tables,
            "calibrated": self.scorer.calibrated,
            "model": self.scorer.fingerprint,
            "files": [[str(file), *stamp_of(file.stat())] for file in self.log.files],
        }

    def _is_finished(self, path: Path) -> bool:
        """Whether a part is there; one that is not is forgotten.

        Raises:
            CheckpointError: it is not the file that was written.
        """
        sha256 = self.files.pop(path.name, None)
        if sha256 is None or not path.is_file():
            return False
        if sha256_of(path) != sha256:
            raise CheckpointError(
                f"{path}: is corrupt, or not the file that was written here (its sha256 is another "
                "one). Remove it and score again."
            )
        if read_stats(self.scorer, path, self.reference) is None:
            return False
        self.files[path.name] = sha256
        return True

    def _record(self, path: Path, sha256: str) -> None:
        """Note that a part has its name; called by several threads."""
        with self._recording:
            self.files[path.name] = sha256
            self._note()

    def _note(self) -> None:
        files = dict(sorted(self.files.items()))
        write_json(self.out / _CLAIM, {**self.identity, "files": files})


def _words_of_calibration(before: dict[str, Any], identity: dict[str, Any]) -> str:
    if before["calibration"] is None:
        return "no calibration"
    return "calibration" if identity["calibration"] is None else "another calibration"


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
        "calibration": _words_of_calibration(before, identity),
    }
    other = [what for key, what in words.items() if before[key] != identity[key]]
    if other and any(out.glob("part-*.parquet")):
        raise CheckpointError(
            f"{out}: holds scores with {', '.join(other)}. Choose another `--out`, or remove it."
        )
    if other:  # that call failed before it wrote a score
        found.unlink()
        write_json(out / _CLAIM, {**identity, "files": {}})
        return {}
    files = before.get("files")
    return dict(files) if isinstance(files, dict) else {}
