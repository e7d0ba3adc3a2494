"""What of a batch is one feature, and rows with other values of it.

Shape letters: B rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch
from recmtl.data import Encoders

__all__ = ["FeatureGroup", "feature_groups", "with_values_of"]


class FeatureGroup(NamedTuple):
    """Features whose values belong together: one, or the aligned sequences of a behaviour."""

    name: str
    members: tuple[str, ...]


def feature_groups(encoders: Encoders) -> tuple[FeatureGroup, ...]:
    """The features of a spec in its order; a behaviour's aligned sequences together."""
    behaviours: dict[str, list[str]] = {}
    for sequence in encoders.spec.sequences:
        behaviours.setdefault(sequence.behaviour, []).append(sequence.name)
    found: dict[str, FeatureGroup] = {}
    for feature in encoders.spec.features:
        members = next((m for m in behaviours.values() if feature.name in m), [feature.name])
        name = " + ".join(members)
        found[name] = FeatureGroup(name, tuple(members))
    return tuple(found.values())


def with_values_of(
    batch: Batch, group: FeatureGroup, other: Batch, index_B: Tensor, encoders: Encoders
) -> Batch:
    """The rows of `batch` with the values that a feature has in the rows `index_B` of `other`.

    All other features stay as they are, those that share its table too.
    """
    members, single = set(group.members), list(encoders.single)
    rows_of = encoders.spec.dense_rows
    dense = [name for name, rows in rows_of.items() for _ in range(rows.start, rows.stop)]
    return replace(
        batch,
        ids_FB=_rows_replaced(batch.ids_FB, other.ids_FB, single, members, index_B),
        dense_DB=_rows_replaced(batch.dense_DB, other.dense_DB, dense, members, index_B),
        bags={
            name: other.bags[name].select(index_B) if name in members else column
            for name, column in batch.bags.items()
        },
        sequences={
            name: other.sequences[name].select(index_B) if name in members else column
            for name, column in batch.sequences.items()
        },
    )


def _rows_replaced(
    ours: Tensor, theirs: Tensor, names: list[str], members: set[str], index_B: Tensor
) -> Tensor:
    places = [i for i, name in enumerate(names) if name in members]
    if not places:
        return ours
    place_M = torch.tensor(places)
    return ours.index_copy(0, place_M, theirs[place_M][:, index_B])
