"""PlainLookup: ids -> vectors with torch alone. Used by evaluation, scoring and export.

Shape letters: B rows, F single-valued features of one width, N values, E embedding width, L
sequence length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recmtl._checks import require_one_of
from recmtl.batch import Batch, Ragged
from recmtl.embeddings.pooling import finish_bag, positions
from recmtl.embeddings.tables import BagFeature, Layout, SequenceColumn, Table
from recmtl.errors import CheckpointError

__all__ = ["PRECISIONS", "PlainLookup", "TablePrecision"]

TablePrecision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[TablePrecision, ...] = ("fp32", "fp16", "int8")
"""How rows are kept: as they are, as halves, or as bytes with a scale and a bias for each row."""
STACK_BYTES = 256 * 2**20
"""Larger tables stay as they are given (memory-mapped, where they come from a file)."""


class PlainLookup(nn.Module):
    """The same call as `ShardedLookup`, for inference: agrees with it within 1e-6.

    Small tables of one width are stacked, so that all their single-valued features are one gather.
    With another precision than fp32, what is looked up is float32 again, near what it was.
    """

    def __init__(
        self,
        layout: Layout,
        tables: Mapping[str, Tensor],
        *,
        stack_bytes: int = STACK_BYTES,
        precision: TablePrecision = "fp32",
    ) -> None:
        """Stack the small tables.

        Args:
            layout: features and tables.
            tables: table -> weights [rows, E].
            stack_bytes: tables up to this size are stacked.
            precision: how rows are kept; int8 takes E + 8 bytes a row.

        Raises:
            CheckpointError: a table is missing or has another shape than the layout says.
        """
        super().__init__()
        require_one_of(PRECISIONS, precision=precision)
        _check_tables(layout, tables)
        self.layout = layout
        self.precision = precision
        groups: dict[str, list[Table]] = {}
        for i, table in enumerate(layout.tables):
            is_small = tables[table.name].nbytes <= stack_bytes
            groups.setdefault(
                f"width_{table.embedding_dim}" if is_small else f"table_{i}", []
            ).append(table)
        self._place: dict[str, tuple[str, int]] = {}
        for group, members in groups.items():
            first_row = 0
            for table in members:
                self._place[table.name] = (group, first_row)
                first_row += table.num_embeddings
            weights = [_packed(tables[table.name], precision) for table in members]
            # Not in the state dict: what a checkpoint calls these weights is
            # `tables/<table>/weight`.
            self.register_buffer(
                group, weights[0] if len(weights) == 1 else torch.cat(weights), persistent=False
            )
        self._single: dict[str, list[int]] = {}
        for i, feature in enumerate(layout.single):
            self._single.setdefault(self._place[feature.table][0], []).append(i)
        for group, members_F in self._single.items():
            offsets_F1 = torch.tensor([[self._place[layout.single[i].table][1]] for i in members_F])
            self.register_buffer(f"offsets_{group}", offsets_F1, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Vectors of every feature in the order of the spec: [B, E], a sequence [B, L, E]."""
        layout = self.layout
        found: dict[str, Tensor] = {}
        for group, members in self._single.items():
            all_of_them = len(members) == len(layout.single)
            ids_FB = (
                batch.ids_FB if all_of_them else torch.stack([batch.ids_FB[i] for i in members])
            )
            vectors_FBE = self.gather(group, ids_FB + self.get_buffer(f"offsets_{group}"))
            found |= zip(
                [layout.single[i].name for i in members], vectors_FBE.unbind(0), strict=True
            )
        for bag in layout.bags:
            found[bag.name] = self.pooled(bag, batch.bags[bag.name])
        for sequence in layout.sequences:
            found[sequence.name] = self._padded(sequence, batch.sequences[sequence.name])
        return {name: found[name] for name in layout.features}

    def place(self, table: str) -> tuple[str, int]:
        """The group that a table is stacked in, and its first row there."""
        return self._place[table]

    def gather(self, group: str, rows: Tensor) -> Tensor:
        """Rows of a group, in float32: [..., E]."""
        weight = self.get_buffer(group)
        if self.precision == "fp32":
            return nnf.embedding(rows, weight)
        if self.precision == "fp16":
            return nnf.embedding(rows, weight).float()
        vectors_NE = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            weight, rows.reshape(-1), torch.arange(rows.numel())
        )
        found: Tensor = vectors_NE.view(*rows.shape, vectors_NE.shape[1])  # of no rows too
        return found

    def pooled(self, bag: BagFeature, column: Ragged) -> Tensor:
        """Vectors of a list-valued feature, [B, E]."""
        sum_BE = self._sum(bag.table, column, column.weights_N if bag.weighted else None)
        return finish_bag(bag, column, sum_BE)

    def _sum(self, table: str, column: Ragged, weights_N: Tensor | None) -> Tensor:
        group, first_row = self._place[table]
        offsets_B = column.lengths_B.cumsum(0) - column.lengths_B
        rows_N, weight = column.values_N + first_row, self.get_buffer(group)
        if self.precision != "fp32":
            weight, rows_N = self.gather(group, rows_N), torch.arange(len(rows_N))
        return nnf.embedding_bag(
            rows_N, weight, offsets_B, mode="sum", per_sample_weights=weights_N
        )

    def _padded(self, sequence: SequenceColumn, column: Ragged) -> Tensor:
        group, first_row = self._place[sequence.table]
        index_LB, present_LB = positions(column, sequence.max_len)
        values_N1 = nnf.pad(
            column.values_N, (0, 1)
        )  # one value more, for the places that hold none
        ids_BL = values_N1[torch.where(present_LB, index_LB, column.values_N.shape[0]).T]
        return self.gather(group, ids_BL + first_row) * present_LB.T.unsqueeze(2)


def _packed(weight_VE: Tensor, precision: TablePrecision) -> Tensor:
    if precision == "fp32":
        return weight_VE
    if precision == "fp16":
        return weight_VE.half()
    packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(weight_VE)
    return packed


def _check_tables(layout: Layout, tables: Mapping[str, Tensor]) -> None:
    problems = []
    for table in layout.tables:
        expected = (table.num_embeddings, table.embedding_dim)
        weight = tables.get(table.name)
        if weight is None:
            problems.append(
                f"Table `{table.name}` is missing; it should be {expected[0]} x {expected[1]}."
            )
        elif tuple(weight.shape) != expected:
            problems.append(
                f"Table `{table.name}` is {' x '.join(map(str, weight.shape))}, the encoders say "
                f"{expected[0]} x {expected[1]}: they belong to another run."
            )
    if problems:
        raise CheckpointError.all_of(problems)
