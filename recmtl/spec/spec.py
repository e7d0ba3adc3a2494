"""Spec: data, features and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from recmtl.spec._base import Problem, StrictModel
from recmtl.spec.checks import column_problems, feature_problems, task_problems
from recmtl.spec.data import Column, DataSpec
from recmtl.spec.features import DenseFeature, Feature, SequenceFeature, SparseFeature
from recmtl.spec.tasks import Task

__all__ = ["Spec"]


class Spec(StrictModel):
    """What the data is: rows, features and tasks. Encoders need this part alone."""

    reserved: ClassVar[frozenset[str]] = frozenset({"type: vector"})

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
    def dense(self) -> tuple[DenseFeature, ...]:
        """Dense features in the order of the spec."""
        return tuple(f for f in self.features if isinstance(f, DenseFeature))

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
        owners = (f for f in self.features if not isinstance(f, DenseFeature))
        return next(f for f in owners if f.name == table)

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables in the order of their owners in the spec."""
        owners = (f for f in self.features if not isinstance(f, DenseFeature))
        return tuple(f.name for f in owners if f.table in (None, f.name))

    def dim_of(self, feature: SparseFeature | SequenceFeature) -> int:
        """Embedding width of the feature's table."""
        dim = self.table_owner(self.table_of(feature)).dim
        assert dim is not None  # the loader's checks
        return dim
