"""BatchScorer: rows in, scores out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl import checkpoint
from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Encoders, pad_to
from recmtl.embeddings import PlainLookup, layout
from recmtl.errors import DataError
from recmtl.models import MultiTaskNet, build_net, build_tasks
from recmtl.run import Run
from recmtl.tasks import TaskSet

__all__ = ["BatchScorer"]

_FORWARD_ROWS = 4096
"""Rows of one forward pass: a larger one leaves the caches, and equal ones make equal scores."""


class BatchScorer:
    """A trained run as a callable on frames: kept columns and one score column a task.

    Rows keep their order. A binary task gives `probs_<task>`, a regression `pred_<task>`, both
    float32. It is pickled by its path and options, so that Ray, Spark and process pools can send
    it to their workers, each of which reads the run itself.

    Args:
        run: the folder of a run.
        keep: columns to copy to the output (default: `data.keep` of the run's spec).

    Raises:
        CheckpointError: the run is corrupt or has no checkpoint.

    Example:
        ``scores = BatchScorer("runs/a")(polars.read_parquet("today.parquet"))``
    """

    def __init__(self, run: str | Path, *, keep: Sequence[str] | None = None) -> None:
        """Open the run; its weights are read when they are first needed."""
        self._run = Path(run).absolute()
        self._keep = None if keep is None else tuple(keep)
        self.run = Run(self._run)

    def __reduce__(self) -> tuple[type[BatchScorer], tuple[Path], dict[str, Any]]:
        return type(self), (self._run,), {"_keep": self._keep}

    @property
    def keep(self) -> tuple[str, ...]:
        """Columns that are copied to the output."""
        return self.run.config.data.keep if self._keep is None else self._keep

    @property
    def encoders(self) -> Encoders:
        """The run's encoders."""
        return self.run.encoders

    @cached_property
    def tasks(self) -> TaskSet:
        """What the run predicts."""
        config = self.run.config
        return build_tasks(config, config.objective.kind, config.train.normalize, self.encoders)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 that names the weights: that of the checkpoint's list of files."""
        return checkpoint.fingerprint(self._checkpoint)

    @cached_property
    def net(self) -> MultiTaskNet:
        """The network, from Batch to logits, in evaluation mode."""
        config, encoders = self.run.config, self.encoders
        checkpoint.verify(self._checkpoint)
        tables = checkpoint.load_full(self._checkpoint, "tables/", "/weight")
        lookup = PlainLookup(
            layout(config, encoders.tables, encoders.single, encoders.bags), tables
        )
        net = build_net(config, config.tower, encoders, lookup)
        net.load_dense(checkpoint.load_full(self._checkpoint, "net/"))
        return net.eval()

    @cached_property
    def _checkpoint(self) -> Path:
        return checkpoint.best(self.run.checkpoints)

    def columns(self) -> dict[str, str]:
        """Output column of each task, products included."""
        kinds = {task.name: task.kind for task in self.run.config.tasks}
        return {
            name: f"{'pred' if kinds[name] == 'regression' else 'probs'}_{name}"
            for name in self.tasks.names
        }

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[B, H]`` of encoded rows, in forward passes of one size."""
        parts = []
        for start in range(0, len(batch), _FORWARD_ROWS):
            part = batch.select(torch.arange(start, min(start + _FORWARD_ROWS, len(batch))))
            rows = len(part)
            parts.append(self.net(pad_to(part, _FORWARD_ROWS))[:rows])
        return torch.cat(parts) if parts else torch.zeros(0, len(self.tasks.heads))

    def logits_of(self, batches: Iterable[Batch]) -> Tensor:
        """Logits of several batches, one below the other."""
        return torch.cat([self.logits(batch) for batch in batches])

    def scores(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Output columns of encoded rows."""
        probs_BT = self.tasks.probs(self.logits(batch)).numpy()
        return {column: probs_BT[:, t] for t, column in enumerate(self.columns().values())}

    def score_frame(
        self, frame: pl.DataFrame, *, counts: EncodeCounts | None = None
    ) -> pl.DataFrame:
        """Kept columns and scores of a polars frame."""
        self._require(frame.columns)
        return self.with_scores(frame, self.encoders.encode(frame, labels=False, counts=counts))

    def with_scores(self, frame: pl.DataFrame, batch: Batch) -> pl.DataFrame:
        """Kept columns of `frame` beside the scores of the same rows, encoded."""
        scores = self.scores(batch)
        kept = [frame[column] for column in self.keep]
        return pl.DataFrame([*kept, *(pl.Series(name, values) for name, values in scores.items())])

    def __call__(self, rows: Any) -> Any:
        """Score a polars or pandas frame, a pyarrow Table or a RecordBatch, and answer in kind.

        Raises:
            DataError: a column is missing or has another type than in training, or `rows` is of
                another type.
        """
        frame, back = to_polars(rows)
        return back(self.score_frame(frame))

    def _require(self, columns: Sequence[str]) -> None:
        missing = [c for c in self.keep if c not in columns]
        if missing:
            raise DataError(
                f"columns to keep are missing: {', '.join(f'`{c}`' for c in missing)}. The data "
                f"has: {', '.join(columns)}."
            )


def to_polars(rows: Any) -> tuple[pl.DataFrame, Any]:
    """`rows` as a polars frame, and the way back to their own type."""
    if isinstance(rows, pl.DataFrame):
        return rows, lambda frame: frame
    if isinstance(rows, pl.LazyFrame):
        return rows.collect(), lambda frame: frame
    kind = type(rows).__module__.split(".")[0]
    if kind == "pandas":
        return pl.from_pandas(rows), lambda frame: frame.to_pandas()
    if kind == "pyarrow":
        frame = pl.from_arrow(rows)
        if isinstance(frame, pl.DataFrame):
            if type(rows).__name__ == "RecordBatch":
                return frame, lambda scored: scored.rechunk().to_arrow().to_batches()[0]
            return frame, lambda scored: scored.to_arrow()
    if isinstance(rows, dict):
        return pl.DataFrame(rows), lambda frame: {c: frame[c].to_numpy() for c in frame.columns}
    raise DataError(
        f"rows are a {type(rows).__name__}; expected a polars or pandas frame, a pyarrow Table or "
        "RecordBatch, or a dict of arrays."
    )
