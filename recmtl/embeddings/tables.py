"""Layout: features -> one table each, and who shares it. Nothing is allocated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from recmtl.spec import SequenceFeature, Spec

__all__ = ["BagFeature", "Layout", "SequenceColumn", "SingleFeature", "Table", "layout"]


class Table(NamedTuple):
    """One embedding table; row 0 is out-of-vocabulary and padding."""

    name: str
    num_embeddings: int
    embedding_dim: int
    features: tuple[str, ...]
    """Features that look it up, in the order of the spec."""


class SingleFeature(NamedTuple):
    """A sparse feature with one id a row."""

    name: str
    table: str


class BagFeature(NamedTuple):
    """A sparse feature with a list of ids a row."""

    name: str
    table: str
    pooling: Literal["sum", "mean"]
    weighted: bool


class SequenceColumn(NamedTuple):
    """A sequence feature: up to `max_len` ids a row, kept apart."""

    name: str
    table: str
    max_len: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Which feature looks up which table, and how. Both lookups are built from it."""

    tables: tuple[Table, ...]
    """Every table, in the order of the spec."""
    single: tuple[SingleFeature, ...]
    """The rows of `Batch.ids_FB`, in their order."""
    bags: tuple[BagFeature, ...]
    """List-valued sparse features, in the order of the spec."""
    sequences: tuple[SequenceColumn, ...]
    """Sequence features, in the order of the spec."""
    features: tuple[str, ...]
    """All of the above in the order of the spec: the order in which a lookup returns them."""

    @property
    def is_weighted(self) -> bool:
        """True if any bag is weighted."""
        return any(bag.weighted for bag in self.bags)

    @property
    def dims(self) -> dict[str, int]:
        """Feature -> width of its vectors."""
        width = {
            feature: table.embedding_dim for table in self.tables for feature in table.features
        }
        return {feature: width[feature] for feature in self.features}

    @property
    def pooled(self) -> tuple[str, ...]:
        """Features with one vector a row, all but the sequences, in the order of the spec."""
        apart = {sequence.name for sequence in self.sequences}
        return tuple(feature for feature in self.features if feature not in apart)

    def with_means(self) -> Layout:
        """The same, each sequence as the mean of its items: all that some towers read of it.

        As a bag it is one sum a row, and as a sequence one for each item that it might have.
        """
        means = [BagFeature(s.name, s.table, "mean", weighted=False) for s in self.sequences]
        return replace(self, bags=(*self.bags, *means), sequences=())

    def table_bytes(self, optimizer: str) -> dict[str, int]:
        """Table -> memory it takes in training: float32 weights and the state of its optimizer.

        Args:
            optimizer: `EmbeddingConfig.optimizer`.
        """
        sizes = {}
        for table in self.tables:
            dim = table.embedding_dim
            state = {"rowwise_adagrad": 1, "adagrad": dim, "sgd": 0, "adam": 2 * dim}[optimizer]
            sizes[table.name] = 4 * table.num_embeddings * (dim + state)
        return sizes


def layout(
    spec: Spec, tables: Mapping[str, int], single: Sequence[str], bags: Sequence[str]
) -> Layout:
    """The layout of a spec whose encoders are fitted.

    Args:
        spec: features and their tables.
        tables: table -> number of rows (`Encoders.tables`).
        single: single-valued sparse features in the order of `Batch.ids_FB` (`Encoders.single`).
        bags: list-valued sparse features (`Encoders.bags`).
    """
    by_name = {feature.name: feature for feature in spec.sparse}
    users: dict[str, list[str]] = {table: [] for table in spec.tables}
    for feature in spec.looked_up:
        users[spec.table_of(feature)].append(feature.name)
    return Layout(
        tables=tuple(
            Table(name, tables[name], spec.dim_of(spec.table_owner(name)), tuple(features))
            for name, features in users.items()
        ),
        single=tuple(SingleFeature(name, spec.table_of(by_name[name])) for name in single),
        bags=tuple(
            BagFeature(
                name,
                spec.table_of(by_name[name]),
                by_name[name].pooling,
                by_name[name].weights is not None,
            )
            for name in bags
        ),
        sequences=tuple(
            SequenceColumn(feature.name, spec.table_of(feature), feature.max_len)
            for feature in spec.looked_up
            if isinstance(feature, SequenceFeature)
        ),
        features=tuple(feature.name for feature in spec.looked_up),
    )
