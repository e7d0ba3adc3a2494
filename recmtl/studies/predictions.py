"""What every run says of every row, kept as Parquet, with the metrics that `recmtl eval` gives.

Shape letters: B rows, T tasks, O columns of what is predicted, N rows where a task is observed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recmtl._files import atomic_path
from recmtl._progress import Bar
from recmtl.batch import Batch
from recmtl.config import RunConfig
from recmtl.data import Log, check_columns, open_log, open_splits
from recmtl.data.arrow import to_arrow
from recmtl.data.codes import read_aside
from recmtl.data.wanted import wanted_columns
from recmtl.models.outcomes import Outcomes
from recmtl.scoring import BatchScorer
from recmtl.scoring.evaluate import gather_outcomes, labelled_batches

__all__ = ["GROUPS", "Observed", "TestRows", "num_groups_of", "predict", "read_observed"]

GROUPS = "rows.parquet"
_KEY = b"recmtl"


@dataclass(frozen=True)
class TestRows:
    """The rows that runs are judged on.

    Attributes:
        config: the spec.
        data_dir: folder of its data.
        test: a file, folder or glob; None for the validation rows.
    """

    __test__ = False  # for pytest: this is none

    config: RunConfig
    data_dir: Path
    test: Path | None

    def checked(self) -> Log:
        """The rows, found to have what the spec needs.

        Raises:
            DataError: they are missing, or do not fit the spec.
        """
        if self.test is None:
            valid = open_splits(self.config, self.data_dir).valid
            assert valid is not None
            return valid
        rows = open_log(self.test, columns=wanted_columns(self.config, labels=True))
        check_columns(rows, self.config, labels=True)
        return rows

    def read_by(self, scorer: BatchScorer) -> Log:
        """The same rows with columns read as a run's encoders need them."""
        if self.test is not None:
            group = self.config.data.group_by
            keep = [] if group is None else [group]
            return open_log(self.test, columns=scorer.encoders.wanted(labels=True, keep=keep))
        valid = open_splits(scorer.run.config, self.data_dir).valid
        assert valid is not None
        return valid

    def write_groups(self, file: Path, rows: Log) -> None:
        """Write the number of each row's group, from 0 on without gaps; nothing without groups."""
        data = self.config.data
        groups = read_aside(rows, data.group_by, (), memory=data.memory_bytes).groups
        schema = pa.schema([pa.field("group", pa.uint32())]).with_metadata(
            {_KEY: json.dumps({"rows": rows.fingerprint}).encode()}
        )
        number_B = np.empty(0, np.uint32)
        if groups is not None:  # of keys that are integers, numbers are as far apart as the keys
            codes = np.concatenate([number_B, *groups.codes.blocks()])
            number_B = np.unique(codes, return_inverse=True)[1].astype(np.uint32)
        with atomic_path(file) as temporary:
            pq.write_table(pa.table([to_arrow(number_B)], schema=schema), temporary)


class Observed(NamedTuple):
    """What a run said, and what came, on the rows where a task is observed."""

    predictions: NDArray[np.float32]
    """[N] log-odds or numbers, [N, C] logits of classes."""
    labels: NDArray[np.float32]
    groups: NDArray[np.integer]
    """Number of each row's group; of the row itself where there are no groups."""
    weights: NDArray[np.float32] | None


def predict(scorer: BatchScorer, rows: TestRows, file: Path, bar: Bar) -> dict[str, Any]:
    """Write what a run says of the rows to `file`, unless that was done before.

    Columns are `prediction_<task>` (float32: log-odds, the number of a regression, or the logits of
    the classes), `label_<task>` (null where the task is not observed) and, where the spec has
    weights, `weight`.

    Args:
        scorer: the run.
        rows: on which.
        file: where it is kept.
        bar: shows rows.

    Returns:
        Metrics as `recmtl.evaluate` gives them, without segments.

    Raises:
        CheckpointError: the run is corrupt.
        DataError: the rows do not fit it.
    """
    log = rows.read_by(scorer)
    stamp = {"model": scorer.fingerprint, "rows": log.fingerprint}
    known = _metadata(file)
    if known is not None and {key: known.get(key) for key in stamp} == stamp:
        metrics: dict[str, Any] = known["metrics"]
        bar.advance(log.num_rows)
        return metrics
    data = scorer.run.config.data
    aside = read_aside(log, data.group_by, (), memory=data.memory_bytes)
    outcomes = Outcomes(scorer.tasks, aside, memory=data.memory_bytes)
    is_weighted = data.weight is not None
    schema = _schema(scorer, is_weighted=is_weighted)
    with (
        atomic_path(file) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        told = _Told(scorer, writer, schema, is_weighted=is_weighted)
        batches = labelled_batches(log, scorer)
        gather_outcomes(told, batches, outcomes, bar)
        metrics = outcomes.metrics().table
        writer.add_key_value_metadata({_KEY: json.dumps({**stamp, "metrics": metrics})})
    return metrics


class _Told:
    """A scorer that writes down what it says."""

    def __init__(
        self, scorer: BatchScorer, writer: pq.ParquetWriter, schema: pa.Schema, *, is_weighted: bool
    ) -> None:
        self.scorer, self.writer, self.schema = scorer, writer, schema
        self.is_weighted = is_weighted
        self.tasks = scorer.tasks

    def logits(self, batch: Batch) -> torch.Tensor:
        logits_BH = self.scorer.logits(batch)
        tasks = self.tasks
        odds_BO = tasks.log_odds(logits_BH).float().numpy()
        target_BT = tasks.targets(batch.labels_BK).numpy().astype(np.float32)
        observed_BT = tasks.observed(batch.labels_BK, batch.weight_B).numpy()
        columns = []
        for t, name in enumerate(tasks.names):
            where, kind = tasks.columns[name], self.schema.field(f"prediction_{name}").type
            of_classes = pa.types.is_fixed_size_list(kind)
            columns.append(to_arrow(odds_BO[:, where if of_classes else where.start]))
            columns.append(pa.array(target_BT[:, t], mask=~observed_BT[:, t]))
        if self.is_weighted:
            columns.append(to_arrow(batch.weight_B.numpy()))
        self.writer.write_table(pa.table(columns, schema=self.schema))
        return logits_BH


def read_observed(file: Path, task: str, groups: Path) -> Observed:
    """What `predict` wrote of a task, on the rows where it is observed."""
    names = pq.read_schema(file).names
    columns = [f"prediction_{task}", f"label_{task}", *(["weight"] if "weight" in names else [])]
    table = pq.read_table(file, columns=columns)
    seen = table.column(1).is_valid().to_numpy()
    group = pq.read_table(groups, columns=["group"]).column(0).to_numpy()
    group = group if len(group) else np.arange(table.num_rows)
    weights = table.column(2).to_numpy()[seen] if len(columns) > 2 else None
    labels = table.column(1).drop_null().to_numpy()
    return Observed(_numbers(table.column(0))[seen], labels, group[seen], weights)


def num_groups_of(groups: Path, num_rows: int) -> int:
    """How many groups there are: users, or rows where the spec names no groups."""
    group = pq.read_table(groups, columns=["group"]).column(0).to_numpy()
    return int(group.max()) + 1 if len(group) else num_rows


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float32]:
    if not pa.types.is_fixed_size_list(column.type):
        found: NDArray[np.float32] = column.to_numpy()
        return found
    flat: NDArray[np.float32] = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), column.type.list_size)


def _schema(scorer: BatchScorer, *, is_weighted: bool) -> pa.Schema:
    of_classes = {task.name: task.classes for task in scorer.run.config.tasks if task.classes}
    fields: list[pa.Field] = []
    for name in scorer.tasks.names:
        kind = pa.float32()
        if name in of_classes:
            kind = pa.list_(pa.field("element", pa.float32(), nullable=False), of_classes[name])
        fields += [pa.field(f"prediction_{name}", kind), pa.field(f"label_{name}", pa.float32())]
    return pa.schema([*fields, *([pa.field("weight", pa.float32())] if is_weighted else [])])


def _metadata(file: Path) -> dict[str, Any] | None:
    try:
        raw = (pq.read_metadata(file).metadata or {}).get(_KEY)
        found = None if raw is None else json.loads(raw)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
