"""Interests: what each task reads from each behaviour's sequence, compared with a target.

Shape letters: B rows, L sequence length, E embedding width, T tasks, M behaviours, C width of a
condition, R rank, P heads of self-attention, K copies of an encoder (one, or one a task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recmtl.towers.parameters import by_task, uniform_

__all__ = ["Encoder", "HyperMode", "Interests"]

HyperMode = Literal["film", "lowrank", "full"]
"""What of an encoder is made for each task and behaviour: the scales and shifts of its layer norm;
a small core within its map; all of it, held apart and not made."""
Encoder = Literal["target", "self+target"]

_NEVER = -1e30
"""A score so low that it weighs nothing, and no infinity, which has no gradient."""
_CONDITION = 16
_HIDDEN = 32


class Interests(nn.Module):
    r"""One vector for each task and behaviour, from sequences and what they are compared with.

    .. math:: H_{i,j} = \operatorname{Encoder}_{i,j}(S_j), \qquad
        a = \operatorname{softmax}(e^\top H_{i,j} / \sqrt{E}), \qquad r_{i,j} = a^\top H_{i,j}

    where the encoder of task i and behaviour j depends on :math:`c_{i,j} = [t_i; b_j]`:

    .. math:: \text{film:}\quad \gamma_{i,j} \odot \operatorname{LN}(S_j W_j) + \beta_{i,j}, \qquad
        \text{lowrank:}\quad S_j (W_j + U P_{i,j} V^\top), \qquad \text{full:}\quad S_j W_{i,j}

    with :math:`(\gamma - 1, \beta)` or P from one hypernetwork whose last layer starts at zero, so
    that all tasks start from one encoder. An empty sequence gives zero.

    Shape: sequences of ``(B, L, E)`` and lengths ``(B,)``, target ``(B, E)`` -> ``(B, T, M, E)``.
    """

    def __init__(
        self,
        dim: int,
        *,
        tasks: Sequence[str],
        behaviours: Sequence[str],
        mode: HyperMode = "film",
        encoder: Encoder = "target",
        num_attention_heads: int = 2,
        rank: int = 4,
    ) -> None:
        """Build it.

        Args:
            dim: embedding width E.
            tasks: their names.
            behaviours: their names.
            mode: what depends on task and behaviour.
            encoder: whether items of a sequence first attend to one another.
            num_attention_heads: heads P of that attention; must divide E.
            rank: rank R of `lowrank`.
        """
        super().__init__()
        self.behaviours, self.num_tasks = tuple(behaviours), len(tasks)
        self.mode, self.dim, self.rank = mode, dim, rank
        self.has_copies = mode == "full" and encoder == "self+target"
        self.num_attention_heads = num_attention_heads
        num_behaviours, is_full = len(self.behaviours), mode == "full"

        def square() -> Tensor:
            return torch.empty(num_behaviours, dim, dim)

        # What an encoder has: packed over behaviours, and for `full` kept by task.
        names = ("map", "query", "key", "value", "out") if encoder == "self+target" else ("map",)
        self.names = names
        for name in names:
            if is_full:
                kept = by_task({task: uniform_(square(), fan_in=dim) for task in tasks})
                self.add_module(f"task_{name}", kept)
            else:
                self.register_parameter(f"shared_{name}", uniform_(square(), fan_in=dim))
        if not is_full:
            self.task_condition = by_task({t: nn.Parameter(torch.randn(_CONDITION)) for t in tasks})
            self.behaviour_condition = nn.Parameter(torch.randn(num_behaviours, _CONDITION))
            outputs = 2 * dim if mode == "film" else rank * rank
            self.hidden = nn.Linear(2 * _CONDITION, _HIDDEN)
            self.last = nn.Linear(_HIDDEN, outputs)
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        if mode == "lowrank":
            self.left = uniform_(torch.empty(dim, rank), fan_in=dim)
            self.right = uniform_(torch.empty(dim, rank), fan_in=rank)

    def forward(self, sequences: Mapping[str, tuple[Tensor, Tensor]], target_BE: Tensor) -> Tensor:
        """All interests, ``(B, T, M, E)``."""
        made = None if self.mode == "full" else self._made()
        parts = []
        for j, behaviour in enumerate(self.behaviours):
            sequence_BLE, lengths_B = sequences[behaviour]
            positions_L = torch.arange(sequence_BLE.shape[1], device=lengths_B.device)
            is_item_BL = positions_L < lengths_B.unsqueeze(1)
            weights = {name: self._weight(name)[:, j] for name in self.names}  # (K, E, E) each
            items_KBLE = self._attended(sequence_BLE.unsqueeze(0), is_item_BL, weights)
            if self.mode == "film":
                assert made is not None
                parts.append(
                    self._film(items_KBLE[0] @ weights["map"][0], made[:, j], is_item_BL, target_BE)
                )
                continue
            maps_TEE = weights["map"]
            if made is not None:
                core_TRR = made[:, j].unflatten(1, (self.rank, self.rank))
                maps_TEE = maps_TEE + self.left @ core_TRR @ self.right.T
            parts.append(self._mapped(items_KBLE, maps_TEE, is_item_BL, target_BE))
        return torch.stack(parts, dim=2)

    def _made(self) -> Tensor:
        """What the hypernetwork makes, ``(T, M, ...)``."""
        task_TC = torch.stack(list(self.task_condition.values()))
        shape = (self.num_tasks, len(self.behaviours), -1)
        both_TMC = torch.cat(
            [task_TC.unsqueeze(1).expand(shape), self.behaviour_condition.expand(shape)], dim=2
        )
        made: Tensor = self.last(self.hidden(both_TMC).relu())
        return made

    def _weight(self, name: str) -> Tensor:
        """``(K, M, E, E)``."""
        if self.mode == "full":
            return torch.stack(list(getattr(self, f"task_{name}").values()))
        shared: Tensor = getattr(self, f"shared_{name}")
        return shared.unsqueeze(0)

    def _attended(
        self, items_KBLE: Tensor, is_item_BL: Tensor, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """Items and what they see of one another; as they are without self-attention."""
        if "query" not in weights:
            return items_KBLE

        def split(name: str) -> Tensor:
            mapped_KBLE: Tensor = items_KBLE @ weights[name].unsqueeze(1)
            heads_KBLPE: Tensor = mapped_KBLE.unflatten(3, (self.num_attention_heads, -1))
            return heads_KBLPE.transpose(2, 3)

        query_KBPLE, key_KBPLE, value_KBPLE = split("query"), split("key"), split("value")
        scores_KBPLL = query_KBPLE @ key_KBPLE.transpose(3, 4) * query_KBPLE.shape[4] ** -0.5
        shares_KBPLL = _softmax(scores_KBPLL, is_item_BL[:, None, None])
        seen_KBLE = (shares_KBPLL @ value_KBPLE).transpose(2, 3).flatten(3)
        attended: Tensor = items_KBLE + seen_KBLE @ weights["out"].unsqueeze(1)
        return attended

    def _film(
        self, mapped_BLE: Tensor, made_TN: Tensor, is_item_BL: Tensor, target_BE: Tensor
    ) -> Tensor:
        """Interests of all tasks from one normalised sequence, ``(B, T, E)``.

        A shift adds the same to all scores of a row, and scales move over to the target.
        """
        normal_BLE = nn.functional.layer_norm(mapped_BLE, (self.dim,))
        scale_TE, shift_TE = made_TN.split(self.dim, dim=1)
        scale_TE = scale_TE + 1.0
        query_BTE = target_BE.unsqueeze(1) * scale_TE
        pooled_BTE, is_any_B = self._pooled(query_BTE, normal_BLE, is_item_BL)
        interest_BTE: Tensor = (pooled_BTE * scale_TE + shift_TE) * is_any_B[:, None, None]
        return interest_BTE

    def _mapped(
        self, items_KBLE: Tensor, maps_TEE: Tensor, is_item_BL: Tensor, target_BE: Tensor
    ) -> Tensor:
        """Interests of all tasks through linear maps: the target goes through them instead."""
        query_TBE = target_BE @ maps_TEE.transpose(1, 2)
        if not self.has_copies:
            pooled_BTE, _ = self._pooled(query_TBE.transpose(0, 1), items_KBLE[0], is_item_BL)
            return (pooled_BTE.transpose(0, 1) @ maps_TEE).transpose(0, 1)
        scores_TBL = (items_KBLE @ query_TBE.unsqueeze(3)).squeeze(3) * self.dim**-0.5
        shares_TB1L = _softmax(scores_TBL, is_item_BL).unsqueeze(2)
        return ((shares_TB1L @ items_KBLE).squeeze(2) @ maps_TEE).transpose(0, 1)

    def _pooled(
        self, query_BTE: Tensor, items_BLE: Tensor, is_item_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores_BTL = query_BTE @ items_BLE.transpose(1, 2) * self.dim**-0.5
        shares_BTL = _softmax(scores_BTL, is_item_BL.unsqueeze(1))
        return shares_BTL @ items_BLE, is_item_BL.any(dim=1).to(items_BLE.dtype)


def _softmax(scores: Tensor, is_there: Tensor) -> Tensor:
    """Softmax over the last dimension of what is there; zero where nothing is."""
    shares: Tensor = scores.masked_fill(~is_there, _NEVER).softmax(dim=-1) * is_there
    return shares
