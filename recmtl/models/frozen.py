"""A trained tower for inference: its first layers as one linear map, and all that follows them.

What a tower does to its input first is linear: the first layers of its experts, gates and heads.
Here their weights stand side by side, so that whoever makes the input can also make this product,
in parts, or from tables that are multiplied with the weights once and for all.

Shape letters: B rows, D input width, W width of all first layers, T tasks, G gates, E experts, I
and O a layer's input and output width, H expert width, N logits of a task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recmtl.towers import CGC, ESMM, PLE, MMoE, SharedBottom, Tower
from recmtl.towers.expert_bank import ExpertBank
from recmtl.towers.layers import GateBank, HeadBank

__all__ = ["FrozenTower", "freeze"]


def freeze(tower: nn.Module, *, in_bf16: bool = False) -> FrozenTower | None:
    """The tower in a form for inference alone; None where its kind has none.

    Changes of the tower after this are not seen.

    Args:
        tower: any tower.
        in_bf16: whether experts are multiplied as bfloat16 after the first layers.

    Example:
        >>> from recmtl.towers import SharedBottomConfig
        >>> tower = SharedBottom(SharedBottomConfig(), in_dim=4, tasks=("click",))
        >>> frozen, x_BD = freeze(tower), torch.ones(1, 4)
        >>> wide_BW = torch.addmm(frozen.bias_W, x_BD, frozen.weight_DW)
        >>> bool(torch.allclose(frozen(wide_BW), tower(x_BD), atol=1e-6))
        True
    """
    with torch.no_grad():
        if type(tower) in (SharedBottom, ESMM, MMoE, CGC, PLE):
            assert isinstance(tower, Tower)
            return FrozenTower(tower, in_bf16=in_bf16)
        return None


class FrozenTower:
    """The layers after the first ones, with weights that are stacked once.

    Attributes:
        weight_DW: weights of all first layers side by side.
        bias_W: their biases; -inf where a gate does not read an expert.
    """

    def __init__(self, tower: Tower, *, in_bf16: bool = False) -> None:
        """Take the weights of a tower over."""
        pairs: list[tuple[ExpertBank, GateBank | None]] = []
        if isinstance(tower, PLE | CGC):
            levels = tower.levels if isinstance(tower, PLE) else [tower.level]
            pairs = [(level.experts, level.gates) for level in levels]  # type: ignore[misc]
        elif isinstance(tower, MMoE):
            pairs = [(tower.experts, tower.gates)]
        elif isinstance(tower, SharedBottom):
            pairs = [(tower.experts, None)]
        self.levels = [_Level(experts, gates, in_bf16=in_bf16) for experts, gates in pairs]
        self.heads = _Heads(tower.heads)
        first = self.levels[0].first() if pairs else self.heads.first()
        self.weight_DW, self.bias_W = first[0].contiguous().clone(), first[1].clone()

    def __call__(self, wide_BW: Tensor) -> Tensor:
        """Logits ``(B, sum of N)`` from the first layers' outputs, which are overwritten."""
        if not self.levels:
            return self.heads.after(wide_BW)
        stream = self.levels[0].after(wide_BW)
        for level in self.levels[1:]:
            stream = level(stream)
        return self.heads(stream)


class _Mlps:
    """An `ExpertBank`: equal MLPs side by side."""

    def __init__(self, bank: ExpertBank, *, in_bf16: bool = False) -> None:
        self.count, dtype = bank.num_experts, next(bank.parameters()).dtype
        self.dtype, self.products = dtype, torch.bfloat16 if in_bf16 else dtype
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for layer in bank.layers:
            weight_EIO, bias_EO = layer()
            self.weights.append(weight_EIO.detach().clone())
            self.biases.append(bias_EO.detach().clone().unsqueeze(1))
        self.later = [
            (weight.to(self.products), bias.to(self.products))
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        self.blocks: list[tuple[int, slice, Tensor]] = []
        """Group, columns and weight ``(I, ...)`` of neighbours that read the same input."""
        sizes = [bank.num_task_experts] * bank.num_tasks + [bank.num_shared_experts]
        weight_IW, depth = self.first()[0], self.biases[0].shape[2]
        start = 0
        for g, size in enumerate(sizes):
            columns = slice(start * depth, (start + size) * depth)
            if size:
                block_IW = weight_IW[:, columns].to(self.products).contiguous()
                self.blocks.append((g, columns, block_IW))
            start += size
        self.is_even = [g for g, _, _ in self.blocks] == [*range(self.count)]

    @property
    def width(self) -> int:
        """Width of the first layers together."""
        return self.biases[0].numel()

    def first(self) -> tuple[Tensor, Tensor]:
        """The first layers, ``(I, E * O)`` and ``(E * O,)``."""
        return self.weights[0].transpose(0, 1).flatten(1), self.biases[0].flatten()

    def after(self, wide_BW: Tensor) -> Tensor:
        """Outputs ``(E, B, O)`` from those of the first layers."""
        return self._rest(wide_BW.relu_().unflatten(1, (self.count, -1)).transpose(0, 1), 1)

    def __call__(self, x_GBI: Tensor) -> Tensor:
        """Outputs ``(E, B, O)``; each MLP reads the input of its group."""
        if self.is_even:
            return self._rest(x_GBI[: self.count], 0)
        x_GBI = x_GBI.to(self.products)
        wide_BW = self.later[0][1].flatten().repeat(x_GBI.shape[1], 1)
        for g, columns, weight_IO in self.blocks:
            wide_BW[:, columns].addmm_(x_GBI[g], weight_IO)
        return self.after(wide_BW)

    def _rest(self, x_EBI: Tensor, start: int) -> Tensor:
        x_EBI = x_EBI.to(self.products)
        for weight_EIO, bias_E1O in self.later[start:]:
            x_EBI = torch.baddbmm(bias_E1O, x_EBI, weight_EIO).relu_()
        return x_EBI.to(self.dtype)


class _Gates:
    """A `GateBank`: one softmax over all experts for each gate; -inf for those it does not read."""

    def __init__(self, bank: GateBank) -> None:
        self.hidden = _Mlps(bank.hidden) if isinstance(bank.hidden, ExpertBank) else None
        num_own = bank.num_task_experts
        self.num_experts = bank.num_tasks * num_own + bank.num_read - num_own
        weight_TDN, bias_TN = bank.task.stacked()
        dim = weight_TDN.shape[1]
        if bias_TN is None:
            bias_TN = weight_TDN.new_zeros(weight_TDN.shape[0], bank.num_read)
        weights = weight_TDN.new_zeros(bank.num_tasks, dim, self.num_experts)
        biases = weight_TDN.new_full((bank.num_tasks, self.num_experts), -torch.inf)
        for t in range(bank.num_tasks):
            reads = [*range(t * num_own, (t + 1) * num_own)]
            reads += range(bank.num_tasks * num_own, self.num_experts)
            weights[t][:, reads], biases[t, reads] = weight_TDN[t], bias_TN[t]
        if bank.shared is not None:
            weight_DE, bias_E = bank.shared.joined()
            bias_E = weights.new_zeros(self.num_experts) if bias_E is None else bias_E
            weights = torch.cat([weights, weight_DE.unsqueeze(0)])
            biases = torch.cat([biases, bias_E.unsqueeze(0)])
        self.weight_GEI = weights.detach().transpose(1, 2).contiguous()
        self.bias_GE1 = biases.detach().unsqueeze(2)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first layers, those of all gates side by side."""
        if self.hidden is not None:
            return self.hidden.first()
        return self.weight_GEI.flatten(0, 1).T, self.bias_GE1.flatten()

    def after(self, wide_BW: Tensor) -> Tensor:
        """Weights ``(B, G, E)`` from the outputs of the first layers."""
        if self.hidden is not None:
            return self._last(self.hidden.after(wide_BW))
        return _softmax(wide_BW.T.contiguous().unflatten(0, (-1, self.num_experts)))

    def __call__(self, x_GBI: Tensor) -> Tensor:
        """Weights ``(B, G, E)``; each gate reads an input of its own."""
        return self._last(x_GBI if self.hidden is None else self.hidden(x_GBI))

    def _last(self, x_GBI: Tensor) -> Tensor:
        x_GIB = x_GBI[: len(self.weight_GEI)].transpose(1, 2)
        return _softmax(torch.baddbmm(self.bias_GE1, self.weight_GEI, x_GIB))


def _softmax(logits_GEB: Tensor) -> Tensor:
    """``(B, G, E)``; over a dimension that is not the last, many rows are computed at once."""
    return logits_GEB.softmax(dim=1).permute(2, 0, 1).contiguous()


class _Level:
    """Experts and the gates that mix them; without gates the one expert is the mixture."""

    def __init__(self, experts: ExpertBank, gates: GateBank | None, *, in_bf16: bool) -> None:
        self.experts = _Mlps(experts, in_bf16=in_bf16)
        self.gates = None if gates is None else _Gates(gates)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first layers of experts, then of gates."""
        weight, bias = self.experts.first()
        if self.gates is None:
            return weight, bias
        gate_weight, gate_bias = self.gates.first()
        return torch.cat([weight, gate_weight], dim=1), torch.cat([bias, gate_bias])

    def after(self, wide_BW: Tensor) -> Tensor:
        """Mixtures ``(G, B, H)`` from the outputs of the first layers."""
        expert_EBH = self.experts.after(wide_BW[:, : self.experts.width])
        if self.gates is None:
            return expert_EBH
        return _mixed(self.gates.after(wide_BW[:, self.experts.width :]), expert_EBH)

    def __call__(self, x_GBI: Tensor) -> Tensor:
        """Mixtures ``(G, B, H)``; experts and gates of a group read its input."""
        assert self.gates is not None
        return _mixed(self.gates(x_GBI), self.experts(x_GBI))


class _Heads:
    """A `HeadBank`."""

    def __init__(self, bank: HeadBank) -> None:
        self.hidden = _Mlps(bank.hidden) if isinstance(bank.hidden, ExpertBank) else None
        self.unpadded = bank.last.unpadded
        weight_TIN, bias_TN = bank.last.stacked()
        assert bias_TN is not None
        self.weight_TIN = weight_TIN.detach().clone()
        self.bias_T1N = bias_TN.detach().clone().unsqueeze(1)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first layers of heads that read the tower's input."""
        if self.hidden is not None:
            return self.hidden.first()
        return self.weight_TIN.transpose(0, 1).flatten(1), self.bias_T1N.flatten()

    def after(self, wide_BW: Tensor) -> Tensor:
        """Logits from the outputs of the first layers."""
        if self.hidden is not None:
            return self._last(self.hidden.after(wide_BW))
        logits: Tensor = self.unpadded(wide_BW.unflatten(1, (len(self.weight_TIN), -1)))
        return logits

    def __call__(self, x_GBI: Tensor) -> Tensor:
        """Logits; each head reads an input of its own, or all read the one there is."""
        x_TBI = x_GBI if len(x_GBI) > 1 else x_GBI.expand(len(self.weight_TIN), -1, -1)
        x_TBI = x_TBI[: len(self.weight_TIN)]
        return self._last(x_TBI if self.hidden is None else self.hidden(x_TBI))

    def _last(self, x_TBI: Tensor) -> Tensor:
        logits_TBN = torch.baddbmm(self.bias_T1N, x_TBI, self.weight_TIN)
        logits: Tensor = self.unpadded(logits_TBN.transpose(0, 1))
        return logits


def _mixed(weight_BGE: Tensor, expert_EBH: Tensor) -> Tensor:
    return (weight_BGE @ expert_EBH.transpose(0, 1)).transpose(0, 1)
