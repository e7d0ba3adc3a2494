"""Whether tasks pull the input of the tower in opposite directions.

Shape letters: B rows, W width of a part of the tower's input, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch
from recmtl.data.cutting import cut_rows
from recmtl.models import MultiTaskNet, TowerInputs
from recmtl.tasks import TaskSet
from recmtl.towers import TowerInput

__all__ = ["gradient_conflict"]

_BATCH_ROWS = 256


def gradient_conflict(
    net: MultiTaskNet, tasks: TaskSet, batch: Batch, *, batch_rows: int = _BATCH_ROWS
) -> dict[str, Any]:
    """How the gradients of the tasks' losses go together at the input of the tower.

    The gradient is that of each task's term of the loss, on the rows where it is observed and with
    its weight, with respect to what the tower reads: the vector, or every tensor of a `TowerInput`.
    Tables see nothing else of a task. Nothing is trained.

    Args:
        net: the network, in evaluation mode.
        tasks: their loss.
        batch: rows with labels.
        batch_rows: rows over which gradients are summed for a feature.

    Returns:
        ``rows``; ``batches``; ``tasks`` that carry loss; ``pairs``, for every two tasks ``tasks``;
        ``rows`` where both have a gradient, their mean ``cosine`` and its standard error
        ``cosine_error``, the share ``opposed`` with a negative cosine, and ``norm_ratio``, the mean
        norm of the first one's gradient over that of the second there; ``features``: feature ->
        the same for every two tasks, of gradients summed over each batch, with ``batches`` for
        ``rows``. What has no row or batch is None.
    """
    weight = batch.weight_B.sum()
    observed_T = tasks.observed_weight(batch.labels_BK, batch.weight_B)
    pairs = list(combinations(tasks.trained, 2))
    by_row = {pair: _Angles() for pair in pairs}
    by_feature: dict[str, dict[tuple[str, str], _Angles]] = {}
    sizes = [min(batch_rows, len(batch) - start) for start in range(0, len(batch), batch_rows)]
    for part in cut_rows(batch, sizes if pairs else ()):
        parts = _parts(net.inputs, _input_of(net, part))
        logits_BH: Tensor = net.tower(_tower_input(parts))
        terms = tasks.loss(
            logits_BH,
            part.labels_BK,
            part.weight_B,
            total_weight=weight,
            observed_weight_T=observed_T,
        ).by_task
        grads = {name: _gradients(term, parts) for name, term in terms.items()}
        rows = {name: torch.cat([g.flatten(1) for g in found], 1) for name, found in grads.items()}
        for (a, b), angles in by_row.items():
            angles.add(rows[a], rows[b])
        summed = {name: _by_feature(parts, found) for name, found in grads.items()}
        for feature in summed[pairs[0][0]]:
            kept = by_feature.setdefault(feature, {pair: _Angles() for pair in pairs})
            for (a, b), angles in kept.items():
                angles.add(summed[a][feature].unsqueeze(0), summed[b][feature].unsqueeze(0))
    return {
        "rows": len(batch),
        "batches": len(sizes) if pairs else 0,
        "tasks": list(tasks.trained),
        "pairs": [{"tasks": list(pair), **by_row[pair].numbers("rows")} for pair in pairs],
        "features": {
            feature: [{"tasks": list(pair), **kept[pair].numbers("batches")} for pair in pairs]
            for feature, kept in by_feature.items()
        },
    }


class _Angles:
    """Angles between two tasks' gradients, gathered over rows or batches."""

    def __init__(self) -> None:
        self.count, self.opposed = 0, 0
        self.sum, self.squares, self.norms = 0.0, 0.0, [0.0, 0.0]

    def add(self, a_BW: Tensor, b_BW: Tensor) -> None:
        """Take the gradients of some rows in; those where one has none do not count."""
        a_BW, b_BW = a_BW.double(), b_BW.double()
        norm_a, norm_b = a_BW.norm(dim=1), b_BW.norm(dim=1)
        both = (norm_a > 0) & (norm_b > 0)
        norm_a, norm_b = norm_a[both], norm_b[both]
        cosine = (a_BW[both] / norm_a[:, None] * (b_BW[both] / norm_b[:, None])).sum(dim=1)
        self.count += len(cosine)
        self.opposed += int((cosine < 0).sum())
        self.sum += float(cosine.sum())
        self.squares += float(cosine.square().sum())
        self.norms[0] += float(norm_a.sum())
        self.norms[1] += float(norm_b.sum())

    def numbers(self, unit: str) -> dict[str, Any]:
        if not self.count:
            nothing = dict.fromkeys(("cosine", "cosine_error", "opposed", "norm_ratio"))
            return {unit: 0, **nothing}
        mean = self.sum / self.count
        variance = max(self.squares / self.count - mean * mean, 0.0)
        return {
            unit: self.count,
            "cosine": mean,
            "cosine_error": math.sqrt(variance / (self.count - 1)) if self.count > 1 else None,
            "opposed": self.opposed / self.count,
            "norm_ratio": self.norms[0] / self.norms[1],
        }


class _Part(NamedTuple):
    """A tensor that the tower reads, and what of it belongs to which feature."""

    key: str
    """Field of the `TowerInput`, or `x_BD`."""
    behaviour: str
    value: Tensor
    lengths_B: Tensor | None
    features: dict[str, tuple[int | slice, ...]]
    """Feature -> its place, behind the rows."""


def _input_of(net: MultiTaskNet, batch: Batch) -> Tensor | TowerInput:
    with torch.no_grad():
        return net.tower_input(batch)


def _parts(inputs: TowerInputs, x: Tensor | TowerInput) -> list[_Part]:
    """The tensors of a tower's input, each a leaf that asks for its gradient."""

    def part(
        key: str,
        value: Tensor,
        features: dict[str, tuple[int | slice, ...]],
        *,
        behaviour: str = "",
        lengths_B: Tensor | None = None,
    ) -> _Part:
        leaf = value.detach().clone().requires_grad_()
        return _Part(key, behaviour, leaf, lengths_B, features)

    in_vector: dict[str, tuple[int | slice, ...]] = {
        name: (where,) for name, where in inputs.columns.items()
    }
    if isinstance(x, Tensor):
        return [part("", x, in_vector)]
    found = [part("x_BD", x.x_BD, in_vector)]
    if x.fields_BFE is not None:
        fields = {name: (f,) for f, name in enumerate(inputs.fields)}
        found.append(part("fields_BFE", x.fields_BFE, {**fields}))
    for behaviour, (sequence_BLE, lengths_B) in (x.sequences or {}).items():
        features = {inputs.sequences[behaviour]: (slice(None),)}
        found.append(
            part("sequences", sequence_BLE, {**features}, behaviour=behaviour, lengths_B=lengths_B)
        )
    if x.target_BE is not None:
        found.append(part("target_BE", x.target_BE, {inputs.target: (slice(None),)}))
    return found


def _tower_input(parts: Sequence[_Part]) -> Tensor | TowerInput:
    if not parts[0].key:
        return parts[0].value
    named = {p.key: p.value for p in parts if not p.behaviour}
    sequences = {
        p.behaviour: (p.value, p.lengths_B)
        for p in parts
        if p.behaviour and p.lengths_B is not None
    }
    return TowerInput(
        named["x_BD"],
        fields_BFE=named.get("fields_BFE"),
        sequences=sequences or None,
        target_BE=named.get("target_BE"),
    )


def _gradients(term: Tensor, parts: Sequence[_Part]) -> list[Tensor]:
    leaves = [part.value for part in parts]
    found = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, found, strict=True)
    ]


def _by_feature(parts: Sequence[_Part], grads: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradient of each feature, summed over the rows: all its places side by side."""
    found: dict[str, list[Tensor]] = {}
    for part, grad in zip(parts, grads, strict=True):
        sum_ = grad.sum(dim=0)
        for name, where in part.features.items():
            found.setdefault(name, []).append(sum_[where].flatten())
    return {name: torch.cat(pieces) for name, pieces in found.items()}
