"""Spec: data, features and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from recmtl.spec._base import Problem, StrictModel
from recmtl.spec.checks import column_problems, feature_problems, task_problems
from recmtl.spec.data import Column, DataSpec
from recmtl.spec.features import (
    DenseFeature,
    Feature,
    SequenceFeature,
    SparseFeature,
    VectorFeature,
)
from recmtl.spec.tasks import Task

__all__ = ["Spec"]


class Spec(StrictModel):
    """What the data is: rows, features and tasks. Encoders need this part alone."""

    name: Column
    """Name of the spec; it is shown in reports."""
    data: DataSpec
    """Where the rows are and what is read beside features and labels."""
    features: tuple[Feature, ...]
    """What the model may look at; each feature is one column."""
    tasks: tuple[Task, ...]
    """What is predicted; the order is that of logits and output columns."""

    @classmethod
    def problems(cls, data: Mapping[str, Any]) -> list[Problem]:
        """What is wrong between features, tasks and columns."""
        return [*feature_problems(data), *task_problems(data), *column_problems(data)]

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """Sparse features in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, SparseFeature))

    @property
    def sequences(self) -> tuple[SequenceFeature, ...]:
        """Sequence features in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, SequenceFeature))

    @property
    def looked_up(self) -> tuple[SparseFeature | SequenceFeature, ...]:
        """Features whose values are rows of a table, in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, SparseFeature | SequenceFeature))

    @property
    def dense(self) -> tuple[DenseFeature, ...]:
        """Dense features in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, DenseFeature))

    @property
    def vectors(self) -> tuple[VectorFeature, ...]:
        """Vector features in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, VectorFeature))

    @property
    def dense_rows(self) -> dict[str, slice]:
        """The rows of `Batch.dense_DB` of each dense feature, then of each vector feature.

        Example:
            >>> import json
            >>> features = [
            ...     {"name": "image", "type": "vector", "dim": 8},
            ...     {"name": "price", "type": "dense"},
            ... ]
            >>> tasks = [{"name": "ctr", "label": "click"}]
            >>> data = {"train": "log.parquet"}
            >>> text = {"name": "x", "data": data, "features": features, "tasks": tasks}
            >>> Spec.model_validate_json(json.dumps(text)).dense_rows
            {'price': slice(0, 1, None), 'image': slice(1, 9, None)}
        """
        widths = {f.name: 1 for f in self.dense} | {f.name: f.dim for f in self.vectors}
        ends = accumulate(widths.values())
        return {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }

    @property
    def num_dense_rows(self) -> int:
        """How many rows `Batch.dense_DB` has: dense features, and components of vectors."""
        return len(self.dense) + sum(feature.dim for feature in self.vectors)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label and condition columns, each once, in task order (`Batch.labels_BK`)."""
        columns = [c for task in self.tasks for c in (task.label, task.given) if c is not None]
        return tuple(dict.fromkeys(columns))

    def table_of(self, feature: SparseFeature | SequenceFeature) -> str:
        """Name of the table that the feature looks up."""
        return feature.table or feature.name

    def table_owner(self, table: str) -> SparseFeature | SequenceFeature:
        """The feature that says how the table's rows come about and how wide they are."""
        owner = next(f for f in self.features if f.name == table)
        assert isinstance(owner, SparseFeature | SequenceFeature)  # the loader's checks
        return owner

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables in the order of their owners in the spec."""
        return tuple(f.name for f in self.looked_up if f.table in (None, f.name))

    def dim_of(self, feature: SparseFeature | SequenceFeature) -> int:
        """Embedding width of the feature's table."""
        dim = self.table_owner(self.table_of(feature)).dim
        assert dim is not None  # the loader's checks
        return dim
