"""Health of experts and gates: who is read, who says nothing, which gates do not choose.

Shape letters: B rows, E experts that a gate weighs, G gates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch
from recmtl.data.cutting import cut_rows
from recmtl.models import MultiTaskNet

__all__ = ["ExpertSums", "GateSums", "expert_health"]

_ROWS_AT_ONCE = 1024
_KEY = re.compile(r"(?:level_(?P<level>\d+)/)?(?P<family>[^/]+)(?:/(?P<name>.+))?")
_WEIGHTS = {"gates", "shared_gate", "self_gates", "shared_self_gate", "refinement"}
"""Families of keys that are weights of each row."""
_UNUSED = 1 / 20
"""Of an equal share."""
_STEADY = 0.01
"""Of an equal share: the largest standard deviation of a gate that does not choose."""


class GateSums:
    """Sums over rows of a gate's weights.

    Example:
        >>> gate = GateSums()
        >>> gate.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> found = gate.numbers()
        >>> found["mean"], found["effective"]
        ([0.5, 0.5], {'of_means': 2.0, 'of_rows': 1.0})
    """

    def __init__(self) -> None:
        """Start with no row."""
        self._rows = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None
        self._effective = 0.0

    def add(self, weight_BE: Tensor) -> None:
        """Take rows in."""
        weight_BE = weight_BE.double()
        if self._sum is None or self._squares is None:
            self._sum = torch.zeros_like(weight_BE[0])
            self._squares = torch.zeros_like(weight_BE[0])
        self._rows += len(weight_BE)
        self._sum += weight_BE.sum(dim=0)
        self._squares += weight_BE.square().sum(dim=0)
        self._effective += float(_effective(weight_BE).sum())

    def numbers(self) -> dict[str, Any]:
        """What the rows say.

        Returns:
            ``mean``, the mean weight of each expert; ``reads``, how many experts have any;
            ``effective``, the effective number of experts (the exponential of the entropy of shares
            in nats), ``of_means`` that of the mean weights and ``of_rows`` the mean over rows of
            each row's own; ``deviation``, the largest standard deviation over rows of a weight.
        """
        assert self._sum is not None
        assert self._squares is not None
        mean_E = self._sum / self._rows
        variance_E = (self._squares / self._rows - mean_E.square()).clamp(min=0)
        return {
            "mean": mean_E.tolist(),
            "reads": int((mean_E > 0).sum()),
            "effective": {
                "of_means": float(_effective(mean_E)),
                "of_rows": self._effective / self._rows,
            },
            "deviation": float(variance_E.max().sqrt()),
        }


class ExpertSums:
    """Means over rows of experts' statistics, which come batch by batch."""

    def __init__(self) -> None:
        """Start with no row."""
        self._rows = 0
        self._sums: Tensor | None = None

    def add(self, rows: int, mean_E: Tensor, std_E: Tensor, zero_share_E: Tensor) -> None:
        """Take the statistics of so many rows in (see `Tower.explain`)."""
        mean_E, std_E = mean_E.double(), std_E.double()
        squares_E = std_E.square() + mean_E.square()
        sums = rows * torch.stack([mean_E, squares_E, zero_share_E.double()])
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows += rows

    def numbers(self) -> dict[str, Any]:
        """Over all rows and units.

        Returns:
            ``mean`` and ``std`` of each expert's outputs, its ``zero_share``, and ``spread_ratio``,
            the largest ``std`` over the smallest (None where that is 0).
        """
        assert self._sums is not None
        mean_E, squares_E, zero_share_E = self._sums / self._rows
        std_E = (squares_E - mean_E.square()).clamp(min=0).sqrt()
        least = float(std_E.min())
        return {
            "mean": mean_E.tolist(),
            "std": std_E.tolist(),
            "zero_share": zero_share_E.tolist(),
            "spread_ratio": float(std_E.max()) / least if least > 0 else None,
        }


class _Place(NamedTuple):
    """What a key of `Tower.explain` is about."""

    level: int
    family: str
    name: str


def expert_health(net: MultiTaskNet, batch: Batch) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each level's gates and experts on the rows of a batch, and each task's refined vectors.

    Args:
        net: the network, in evaluation mode.
        batch: rows.

    Returns:
        A dict for each level that has gates: ``level``; ``experts``, their names; ``gates``, for
        each gate the mean weight of every expert; ``own``, the same for gates that weigh an owner's
        own experts alone, by the names of these; ``effective``, ``reads`` and ``deviation`` of each
        gate (see `GateSums.numbers`); ``constant``, gates whose weights do not vary between rows;
        ``unused``, experts of which no gate takes 1 / (20 E) of its weight; ``mean``, ``std``,
        ``zero_share`` and ``spread_ratio`` (see `ExpertSums.numbers`).

        And ``{"vectors": names, "tasks": {task: mean weight of each vector}}`` where the tower
        weighs its input's vectors for each task, else ``{}``.
    """
    gates: dict[_Place, GateSums] = {}
    experts: dict[int, ExpertSums] = {}
    refs = net.tower.expert_refs()
    last = max((ref.level for ref in refs), default=1)
    sizes = [_ROWS_AT_ONCE] * (len(batch) // _ROWS_AT_ONCE)
    sizes += [len(batch) % _ROWS_AT_ONCE] if len(batch) % _ROWS_AT_ONCE else []
    for part in cut_rows(batch, sizes):
        explained = net.explain(part)
        for key, value in explained.items():
            place = _place(key, last)
            if place.family not in _WEIGHTS:
                continue
            gates.setdefault(place, GateSums()).add(value)
        for level in range(1, last + 1):
            prefix = "experts/" if level == last else f"level_{level}/experts/"
            names = [f"{prefix}{name}" for name in ("mean", "std", "zero_share")]
            if all(name in explained for name in names):
                sums = experts.setdefault(level, ExpertSums())
                sums.add(len(part), *(explained[name] for name in names))
    numbers = {place: sums.numbers() for place, sums in gates.items()}
    refined = {p.name: n["mean"] for p, n in numbers.items() if p.family == "refinement"}
    numbers = {place: found for place, found in numbers.items() if place.family != "refinement"}
    levels = [
        _level(
            level,
            {place: found for place, found in numbers.items() if place.level == level},
            [ref.name for ref in refs if ref.level == level],
            experts[level].numbers() if level in experts else None,
        )
        for level in sorted({place.level for place in numbers})
    ]
    return levels, {"vectors": _vectors(net, refined), "tasks": refined} if refined else {}


def _place(key: str, last: int) -> _Place:
    found = _KEY.fullmatch(key)
    assert found is not None
    return _Place(int(found["level"] or last), found["family"], found["name"] or "")


def _level(
    level: int,
    numbers: Mapping[_Place, Mapping[str, Any]],
    names: list[str],
    statistics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A level's entry of the report."""
    over_all = {_gate(p): n for p, n in numbers.items() if p.family in ("gates", "shared_gate")}
    num_experts = max((len(n["mean"]) for n in over_all.values()), default=len(names))
    if len(names) != num_experts:
        names = [str(e + 1) for e in range(num_experts)]
    own, used = dict[str, dict[str, float]](), dict[str, float]()
    for found in over_all.values():
        _raise(used, zip(names, found["mean"], strict=True))
    for place, found in numbers.items():
        if _gate(place) not in over_all:
            owned = _owned(place, len(found["mean"]), names)
            own[_gate(place)] = dict(zip(owned, found["mean"], strict=True))
            _raise(used, own[_gate(place)].items())
    every = {_gate(place): found for place, found in numbers.items()}
    chosen = {gate: n for gate, n in every.items() if n["reads"] > 1}
    constant = [gate for gate, n in chosen.items() if n["deviation"] < _STEADY / n["reads"]]
    entry = {
        "level": level,
        "experts": names,
        "gates": {gate: found["mean"] for gate, found in over_all.items()},
        "own": own,
        "effective": {gate: found["effective"] for gate, found in every.items()},
        "reads": {gate: found["reads"] for gate, found in every.items()},
        "deviation": {gate: found["deviation"] for gate, found in every.items()},
        "constant": constant,
        "unused": [name for name in names if used.get(name, 0.0) < _UNUSED / num_experts],
    }
    unknown = dict.fromkeys(("mean", "std", "zero_share", "spread_ratio"))
    return entry | dict(unknown if statistics is None else statistics)


def _gate(place: _Place) -> str:
    """What a gate is called."""
    if place.family == "gates":
        return place.name
    family = place.family.removesuffix("s").replace("_", " ")
    return f"{family} of {place.name}" if place.name else family


def _owned(place: _Place, count: int, names: Sequence[str]) -> list[str]:
    """The experts that a gate over an owner's own experts weighs."""
    owner = place.name or "shared"
    for prefix in (owner, f"group {owner}"):
        owned = [f"{prefix} {m + 1}" for m in range(count)]
        if all(name in names for name in owned):
            return owned
    return [f"own {m + 1}" for m in range(count)]


def _raise(used: dict[str, float], shares: Iterable[tuple[str, float]]) -> None:
    for name, share in shares:
        used[name] = max(used.get(name, 0.0), share)


def _vectors(net: MultiTaskNet, refined: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of the vectors that a tower weighs for each task."""
    count = len(next(iter(refined.values())))
    for module in net.tower.modules():
        names = getattr(module, "vectors", None)
        if isinstance(names, tuple) and len(names) == count:
            return [str(name) for name in names]
    return [str(k + 1) for k in range(count)]


def _effective(weight: Tensor) -> Tensor:
    """Exponential of the entropy of the last dimension's shares; 0 where there are none."""
    total = weight.sum(dim=-1, keepdim=True)
    share = weight / total.clamp(min=1e-300)
    effective = torch.special.entr(share).sum(dim=-1).exp()
    return torch.where(total.squeeze(-1) > 0, effective, 0.0)
