"""ServingNet: the tensors of a call -> what each task predicts, in operations of all formats.

Shape letters: B rows, L values of a list, E embedding width, D dense features and components of
vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from recmtl.batch import Batch, Ragged
from recmtl.embeddings import Layout
from recmtl.exporting.inputs import ModelInput
from recmtl.exporting.rows import TablePrecision, TableRows
from recmtl.models import MultiTaskNet
from recmtl.tasks import TaskSet

__all__ = ["ServingNet"]


class ServingNet(nn.Module):
    """A trained net that takes plain tensors, and says what tasks predict.

    Args:
        net: the net; its lookup is not used.
        tasks: from logits to probabilities.
        layout: features and tables.
        inputs: what the forward pass takes.
        tables: table -> what `pack` made of it.
        precision: how it was packed.
    """

    def __init__(
        self,
        net: MultiTaskNet,
        tasks: TaskSet,
        layout: Layout,
        inputs: Sequence[ModelInput],
        tables: Mapping[str, Mapping[str, Tensor]],
        precision: TablePrecision,
    ) -> None:
        super().__init__()
        self.inputs, self.layout = tuple(inputs), layout
        self.below, self.tower, self.tasks = deepcopy((net.inputs, net.tower, tasks))
        self.tables = nn.ModuleList(
            TableRows(precision, tables[table.name]) for table in layout.tables
        )
        self._table_of = {
            name: t for t, table in enumerate(layout.tables) for name in table.features
        }
        self._bags = {bag.name: bag for bag in layout.bags}
        self.eval().requires_grad_(False)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each task predicts.

        Args:
            inputs: the tensors of a call, in the order of the inputs (see `inputs_of`).

        Returns:
            Task -> ``[B]``: the probability, or a regression's number; ``[B, C]``, the probability
            of each class, for a multiclass task.
        """
        found_BO = self.tasks.probs(self.logits(inputs))
        return {
            task.name: found_BO[:, columns if task.kind == "multiclass" else columns.start]
            for task in self.tasks.tasks
            for columns in (self.tasks.columns[task.name],)
        }

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of all heads, ``[B, H]``."""
        vectors = {name: self._vectors(name, inputs) for name in self.layout.features}
        logits_BH: Tensor = self.tower(self.below(self._batch(inputs), vectors))
        return logits_BH

    def _vectors(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Vectors of a feature: [B, E], of a sequence [B, L, E]."""
        found: Tensor = self.tables[self._table_of[name]](inputs[name])
        if found.dim() == 2:
            return found
        lengths_B = inputs[f"{name}.lengths"]
        places_L = torch.arange(inputs[name].shape[1], device=lengths_B.device)
        present_BL = (places_L < lengths_B.unsqueeze(1)).to(found.dtype)
        if name not in self._bags:
            return found * present_BL.unsqueeze(2)
        bag = self._bags[name]
        if bag.weighted:
            present_BL = present_BL * inputs[f"{name}.weights"]
        sum_BE = (found * present_BL.unsqueeze(2)).sum(dim=1)
        if bag.pooling == "sum":
            return sum_BE
        if not bag.weighted:
            return sum_BE / lengths_B.clamp(min=1).unsqueeze(1)
        total_B1 = present_BL.sum(dim=1, keepdim=True)
        return torch.where(total_B1 == 0, 0.0, sum_BE / torch.where(total_B1 == 0, 1.0, total_B1))

    def _batch(self, inputs: Mapping[str, Tensor]) -> Batch:
        """What `TowerInputs` reads beside the vectors: dense features, and lengths of sequences."""
        rows_BD = [
            inputs[each.name].unsqueeze(1) if each.kind == "number" else inputs[each.name]
            for kind in ("number", "vector")  # the order of `Spec.dense_rows`
            for each in self.inputs
            if each.kind == kind
        ]
        nothing = next(self.buffers()).new_zeros(0, dtype=torch.float32)
        sequences = {
            sequence.name: Ragged(nothing, inputs[f"{sequence.name}.lengths"])
            for sequence in self.layout.sequences
        }
        return Batch(
            ids_FB=nothing,
            dense_DB=torch.cat(rows_BD, dim=1).T if rows_BD else nothing,
            bags={},
            sequences=sequences,
            labels_BK=nothing,
            weight_B=nothing,
            rows_B=nothing,
        )
