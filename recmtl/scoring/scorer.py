"""BatchScorer: rows in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl import checkpoint
from recmtl.batch import Batch
from recmtl.data import Encoders
from recmtl.data.cutting import cut_rows, pad_to
from recmtl.data.frames import beside, column_names, require_columns, to_polars
from recmtl.embeddings import PlainLookup, layout
from recmtl.embeddings.plain import PRECISIONS, TablePrecision
from recmtl.errors import SpecError
from recmtl.models import MultiTaskNet, build_net, build_tasks
from recmtl.run import Run
from recmtl.scoring.net import MOST_ROWS, ScoringNet
from recmtl.tasks import TaskSet
from recmtl.tasks.calibrator import calibrators_of

__all__ = ["FORWARD_ROWS", "BatchScorer"]

FORWARD_ROWS = MOST_ROWS
"""Rows of one forward pass, or of a whole number of them: equal passes make equal scores."""


class BatchScorer:
    """A trained run as a callable on frames: kept columns and one score column a task.

    Rows keep their order. A binary task gives `probs_<task>`, a regression `pred_<task>`, both
    float32; a multiclass task `probs_<task>`, the probability of each class as a fixed-size list
    (in pandas an array in each row, in a dict of arrays one array of two dimensions). It is pickled
    by its path and options, so that Ray, Spark and process pools can send it to their workers. Each
    of these reads the run itself, once: they unpickle a function for every task.

    Args:
        run: the folder of a run.
        keep: columns to copy to the output (default: `data.keep` of the run's spec).
        tables: how embedding rows are kept: `fp32`, as they were trained; `fp16`, in half of the
            memory; `int8`, a byte a number, with a scale and a bias a row, and multiplied as bytes.
        calibrated: whether tasks that the run has calibrators of are calibrated.
        pass_rows: rows of one pass through the network, to which fewer are padded (default: what
            suits many rows best, 1,024 to 4,096); 64 or so suit requests of a few rows.

    Raises:
        CheckpointError: the run is corrupt or has no checkpoint.
        SpecError: `tables` is none of these, or `pass_rows` no positive integer.

    Example:
        ``scores = BatchScorer("runs/a")(polars.read_parquet("today.parquet"))``
    """

    def __init__(
        self,
        run: str | Path,
        *,
        keep: Sequence[str] | None = None,
        tables: TablePrecision = "fp32",
        calibrated: bool = True,
        pass_rows: int | None = None,
    ) -> None:
        """Open the run; its weights are read when they are first needed."""
        if tables not in PRECISIONS:
            listed = ", ".join(f"`{name}`" for name in PRECISIONS)
            raise SpecError(f"tables: must be one of {listed}, got {tables!r}.")
        is_count = isinstance(pass_rows, int) and not isinstance(pass_rows, bool) and pass_rows > 0
        if pass_rows is not None and not is_count:
            raise SpecError(f"pass_rows: must be a positive integer, got {pass_rows!r}.")
        self.tables = tables
        self.calibrated = calibrated
        self.pass_rows = pass_rows
        self._run = Path(run).absolute()
        self._keep = None if keep is None else (keep,) if isinstance(keep, str) else tuple(keep)
        self.run = Run(self._run)

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self._keep, self.tables, self.calibrated, self.pass_rows)
        return _unpickled, (type(self), self._run, *options)

    @property
    def keep(self) -> tuple[str, ...]:
        """Columns that are copied to the output."""
        names = self.run.config.data.keep if self._keep is None else self._keep
        return tuple(dict.fromkeys(names))

    @property
    def encoders(self) -> Encoders:
        """The run's encoders."""
        return self.run.encoders

    @cached_property
    def tasks(self) -> TaskSet:
        """What the run predicts."""
        config = self.run.config
        return build_tasks(
            config,
            config.objective.kind,
            config.train.normalize,
            self.encoders,
            calibrators_of(self.run.calibration if self.calibrated else {}),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 that names the weights: that of the checkpoint's list of files."""
        return checkpoint.fingerprint(self._checkpoint)

    @cached_property
    def verified(self) -> Path:
        """The checkpoint, once every file of it was compared with its sha256."""
        checkpoint.verify(self._checkpoint)
        return self._checkpoint

    @cached_property
    def net(self) -> MultiTaskNet:
        """The network, from Batch to logits, in evaluation mode."""
        config, encoders = self.run.config, self.encoders
        lookup = PlainLookup(
            layout(config, encoders.tables, encoders.single, encoders.bags),
            checkpoint.load_full(self.verified, "tables/", "/weight"),
            precision=self.tables,
        )
        net = build_net(config, config.network, encoders, lookup)
        net.load_dense(checkpoint.load_full(self.verified, "net/"))
        return net.eval()

    @cached_property
    def scoring_net(self) -> ScoringNet:
        """What scores are computed with: the network in a form for inference alone."""
        return ScoringNet(self.net, rows=self.pass_rows)

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
        net = self.scoring_net
        parts = [net(pad_to(part, net.rows))[: len(part)] for part in self._passes(batch)]
        return torch.cat(parts) if parts else torch.zeros(0, self.tasks.num_logits)

    def scores(
        self, batch: Batch, *, through: Callable[..., Iterable[Tensor]] = map
    ) -> dict[str, NDArray[np.float32]]:
        """Output columns of encoded rows; that of a multiclass task is `[B, C]`.

        Each pass is computed apart from the others, padded to the same size: a row's score depends
        on its pass alone. To the last bit it also depends on torch's number of threads.

        Args:
            batch: the rows.
            through: what calls a function on all passes, such as the `map` of an executor.
        """
        parts = [self.tasks.probs(torch.zeros(0, self.tasks.num_logits))]
        parts += through(self._probs, self._passes(batch))
        return self._by_column(torch.cat(parts).numpy())

    @torch.inference_mode()
    def _probs(self, part: Batch) -> Tensor:
        """What is predicted `[B, O]` for the rows of one pass."""
        net = self.scoring_net
        probs_BO: Tensor = self.tasks.probs(net(pad_to(part, net.rows)))
        return probs_BO[: len(part)]

    def _passes(self, batch: Batch) -> Iterator[Batch]:
        """Rows in stretches of one forward pass each."""
        most = self.scoring_net.rows
        return cut_rows(
            batch, [min(most, len(batch) - start) for start in range(0, len(batch), most)]
        )

    def _by_column(self, probs_BO: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        of_classes = {task.name for task in self.tasks.tasks if task.kind == "multiclass"}
        found = {}
        for name, column in self.columns().items():
            where = self.tasks.columns[name]
            found[column] = probs_BO[:, where if name in of_classes else where.start]
        return found

    def __call__(self, rows: Any) -> Any:
        """Score a polars or pandas frame, a pyarrow Table or a RecordBatch, and answer in kind.

        Kept columns come back as they are, and a pandas frame keeps its index.

        Raises:
            DataError: a column is missing or has another type than in training, or `rows` is of
                another type.
            SpecError: a column to keep has the name of a score.
        """
        if isinstance(rows, pl.LazyFrame):
            rows = rows.collect()  # once: a second time its rows may come in another order
        self.require(column_names(rows))
        frame = to_polars(rows, self.encoders.columns(labels=False))
        if not frame.height:  # an empty pandas column has no type that could be checked
            none = self.tasks.probs(torch.zeros(0, self.tasks.num_logits))
            return beside(rows, self.keep, self._by_column(none.numpy()))
        scores = self.scores(self.encoders.encode(frame, labels=False))
        return beside(rows, self.keep, scores)

    def require(self, names: Sequence[str], where: str = "") -> None:
        """Require the columns to keep and those that features need.

        Raises:
            DataError: some are missing.
            SpecError: a column to keep has the name of a score.
        """
        require_columns(
            names,
            features=self.encoders.columns(labels=False),
            keep=self.keep,
            scores=self.columns().values(),
            where=where,
        )


def _unpickled(cls: type[BatchScorer], run: Path, *options: Any) -> BatchScorer:
    """The scorer of these options, the same one as long as the run is the same."""
    file = run / "run.json"
    state = file.read_bytes() if file.is_file() else b""
    return _opened(cls, run, *options, state)  # type: ignore[arg-type]  # a class has a hash


@lru_cache(maxsize=1)
def _opened(
    cls: type[BatchScorer],
    run: Path,
    keep: tuple[str, ...] | None,
    tables: TablePrecision,
    calibrated: bool,
    pass_rows: int | None,
    state: bytes,  # another one is another run
) -> BatchScorer:
    return cls(run, keep=keep, tables=tables, calibrated=calibrated, pass_rows=pass_rows)
