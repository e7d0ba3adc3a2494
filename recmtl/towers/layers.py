"""Gates and heads: the layers of all tasks, run together.

Shape letters: B rows, D input width, T tasks, M experts of each task, S shared experts,
E = T * M + S all experts, G gates, H hidden width, O logits of all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl._checks import suggest
from recmtl.towers.expert_bank import Columns, ExpertBank
from recmtl.towers.gating import Gates
from recmtl.towers.inputs import TaskSlot
from recmtl.towers.parameters import by_task, uniform_

__all__ = ["GateBank", "HeadBank"]

_LEAST_RATE = 1e-6
"""A rate of 0 has no logarithm."""


class GateBank(nn.Module):
    """Softmax gates of all tasks, and a shared one where asked for, as one matrix product.

    A task's gate weighs its own experts, then the shared ones; the shared gate weighs all experts
    [task 1's ... task T's; shared]. Columns that belong to a task are stored under its name.

    Shape: ``(B, D)`` or ``(B, G, D)`` -> ``(B, G, E)``: weights over all experts, exactly 0 for
        those a task does not read; each row sums to 1.

    Example:
        >>> gates = GateBank(("click", "buy"), 4, num_task_experts=1, num_shared_experts=1)
        >>> gates(torch.zeros(1, 4))
        tensor([[[0.5000, 0.0000, 0.5000],
                 [0.0000, 0.5000, 0.5000]]], grad_fn=<CatBackward0>)
    """

    own_TT1: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        in_dim: int,
        *,
        num_task_experts: int = 0,
        num_shared_experts: int = 0,
        widths: Sequence[int] = (),
        bias: bool = False,
        shared_gate: bool = False,
        own_inputs: bool = False,
    ) -> None:
        """Build it.

        Args:
            tasks: names of the tasks.
            in_dim: width D of the input.
            num_task_experts: experts M of each task.
            num_shared_experts: experts S that every task reads.
            widths: hidden widths of each gate; none for linear gates.
            bias: whether the last layer has one.
            shared_gate: whether there is a shared gate after the tasks' gates.
            own_inputs: True: the input is ``(B, G, D)``, one for each gate.
        """
        super().__init__()
        self.num_tasks = len(tasks)
        self.num_task_experts = num_task_experts
        self.sizes = Gates(len(tasks), num_task_experts, num_shared_experts, shared_gate)
        self.is_linear = not widths
        self.num_read = num_task_experts + num_shared_experts
        self.own_inputs = own_inputs or bool(widths)
        self.hidden = (
            ExpertBank(
                in_dim,
                widths,
                tasks=tasks,
                num_task_experts=1,
                num_shared_experts=int(shared_gate),
                own_inputs=own_inputs,
            )
            if widths
            else nn.Identity()
        )
        last_dim = widths[-1] if widths else in_dim
        self.task = _Columns(last_dim, dict.fromkeys(tasks, self.num_read), bias=bias)
        # Columns of the shared gate over a task's experts stand under that task's name.
        self.shared = (
            _Columns(
                last_dim,
                dict.fromkeys(tasks, num_task_experts),
                rest=num_shared_experts,
                bias=bias,
            )
            if shared_gate
            else None
        )
        self.register_buffer("own_TT1", torch.eye(self.num_tasks).unsqueeze(-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weights of all gates over all experts, ``(B, G, E)``."""
        task_BTN, shared_BE = self._logits(self.hidden(x))
        weight_BTE = self._over_all_experts(task_BTN.softmax(dim=-1))
        if shared_BE is None:
            return weight_BTE
        return torch.cat([weight_BTE, shared_BE.softmax(dim=-1).unsqueeze(1)], dim=1)

    def columns(self) -> list[Columns]:
        """The columns of linear gates: the tasks', then the shared gate's."""
        weight, bias = self.task.stacked() if self.own_inputs else self.task.joined()
        found = [_gate_columns(weight, bias, is_shared=False)]
        if self.shared is not None:
            found.append(_gate_columns(*self.shared.joined(), is_shared=True))
        return found

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        num_tasks, num_read = self.num_tasks, self.num_read
        if self.own_inputs:
            weight_TDN, bias_TN = self.task.stacked()
            task_TBN = torch.bmm(x[:, :num_tasks].transpose(0, 1), weight_TDN)
            task_BTN = task_TBN.transpose(0, 1)
            if bias_TN is not None:
                task_BTN = task_BTN + bias_TN
            if self.shared is None:
                return task_BTN, None
            return task_BTN, _affine(x[:, num_tasks], *self.shared.joined())
        if self.shared is None:
            return _affine(x, *self.task.joined()).view(-1, num_tasks, num_read), None
        own, shared = self.task.joined(), self.shared.joined()
        weight, bias = torch.cat([own[0], shared[0]], dim=1), _cat(own[1], shared[1])
        logits = _affine(x, weight, bias)
        task_BN = logits[:, : num_tasks * num_read]
        return task_BN.reshape(-1, num_tasks, num_read), logits[:, num_tasks * num_read :]

    def _over_all_experts(self, weight_BTN: Tensor) -> Tensor:
        if self.num_task_experts == 0 or self.num_tasks == 1:
            return weight_BTN
        num_own = self.num_task_experts
        own_BTM, shared_BTS = weight_BTN[..., :num_own], weight_BTN[..., num_own:]
        own_BTE = (own_BTM.unsqueeze(2) * self.own_TT1).flatten(2)
        return torch.cat([own_BTE, shared_BTS], dim=-1)


class HeadBank(nn.Module):
    """One MLP a task, all run together: hidden layers with ReLU, then a linear layer to its logits.

    Shape: ``(B, T, D)`` or ``(B, D)`` -> ``(B, O)`` logits, O = sum of outputs, in task order.

    Example:
        >>> heads = HeadBank((TaskSlot("click"), TaskSlot("stars", outputs=5)), 4, (8,))
        >>> heads(torch.zeros(3, 2, 4)).shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        slots: Sequence[TaskSlot],
        in_dim: int,
        widths: Sequence[int] = (),
        *,
        dropout: float = 0.0,
        own_inputs: bool = True,
    ) -> None:
        """Build it.

        Args:
            slots: the tasks; `outputs` may differ.
            in_dim: width D of a head's input.
            widths: hidden widths of each head, possibly none.
            dropout: share of units dropped after each hidden layer.
            own_inputs: True: the input is ``(B, T, D)``, one for each head; False: ``(B, D)``.
        """
        super().__init__()
        self.slots = tuple(slots)
        self.own_inputs = own_inputs or bool(widths)
        self.hidden = (
            ExpertBank(
                in_dim,
                widths,
                tasks=[slot.name for slot in slots],
                num_task_experts=1,
                dropout=dropout,
                own_inputs=own_inputs,
            )
            if widths
            else nn.Identity()
        )
        last_dim = widths[-1] if widths else in_dim
        self.last = _Columns(last_dim, {slot.name: slot.outputs for slot in slots}, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of all tasks, ``(B, O)``."""
        if type(self.hidden) is ExpertBank and self.hidden.can_chunk(x):
            weight_TDN, bias_TN = self.last.stacked()
            assert bias_TN is not None
            return self.last.unpadded(self.hidden.chunked(x, last=(weight_TDN, bias_TN)))
        return self.logits(self.hidden(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """The last layer alone, on the hidden layers' outputs."""
        if not self.own_inputs:
            return _affine(hidden, *self.last.joined())
        weight_TDN, bias_TN = self.last.stacked()
        assert bias_TN is not None
        padded_TBN = torch.baddbmm(bias_TN.unsqueeze(1), hidden.transpose(0, 1), weight_TDN)
        return self.last.unpadded(padded_TBN.transpose(0, 1))

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        """Let the last biases of each named task say its rate, or its rates (see `Tower`)."""
        outputs = {slot.name: slot.outputs for slot in self.slots}
        problems = list(_rate_problems(rates, outputs))
        if problems:
            raise ValueError("\n".join(problems))
        with torch.no_grad():
            for task, rate in rates.items():
                bias_N = self.last.bias_of(task)
                if isinstance(rate, Sequence):
                    logs = [math.log(max(float(share), _LEAST_RATE)) for share in rate]
                    bias_N.copy_(torch.tensor(logs, dtype=bias_N.dtype))
                else:
                    clipped = min(max(float(rate), _LEAST_RATE), 1.0 - _LEAST_RATE)
                    bias_N.fill_(math.log(clipped) - math.log1p(-clipped))


class _Columns(nn.Module):
    """Output columns of one linear layer, kept under the name of the task they belong to.

    Args:
        in_dim: width D of the input.
        outputs: task -> number N of its columns, in order.
        rest: number of columns after all tasks' that belong to none.
        bias: whether there is one.
    """

    columns: Tensor

    def __init__(
        self, in_dim: int, outputs: Mapping[str, int], *, rest: int = 0, bias: bool
    ) -> None:
        super().__init__()
        self.widest = max(outputs.values())
        self.is_even = min(outputs.values()) == self.widest
        owned = {task: count for task, count in outputs.items() if count}
        self.task_weight = by_task(
            {t: uniform_(torch.empty(in_dim, n), fan_in=in_dim) for t, n in owned.items()}
        )
        self.task_bias = by_task(
            {t: nn.Parameter(torch.zeros(n)) for t, n in owned.items() if bias}
        )
        self.has_rest, self.has_bias = rest > 0, bias
        if rest:
            self.rest_weight = uniform_(torch.empty(in_dim, rest), fan_in=in_dim)
            if bias:
                self.rest_bias = nn.Parameter(torch.zeros(rest))
        kept = [
            t * self.widest + n for t, count in enumerate(outputs.values()) for n in range(count)
        ]
        self.register_buffer("columns", torch.tensor(kept, dtype=torch.long), persistent=False)

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``(D, sum of N)`` and bias of all columns side by side."""
        weights, biases = list(self.task_weight.values()), list(self.task_bias.values())
        if self.has_rest:
            weights.append(self.rest_weight)
            if self.has_bias:
                biases.append(self.rest_bias)
        weight = torch.cat(weights, dim=1)
        return weight, torch.cat(biases) if self.has_bias else None

    def stacked(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``(T, D, N)`` and bias ``(T, N)``, padded with zeros to the widest task."""
        weights, biases = list(self.task_weight.values()), list(self.task_bias.values())
        if not self.is_even:
            weights = [nn.functional.pad(w, (0, self.widest - w.shape[1])) for w in weights]
            biases = [nn.functional.pad(b, (0, self.widest - b.shape[0])) for b in biases]
        return torch.stack(weights), torch.stack(biases) if self.has_bias else None

    def unpadded(self, padded_BTN: Tensor) -> Tensor:
        """``(B, T, N)`` of padded columns -> ``(B, sum of N)``."""
        flat = padded_BTN.flatten(1)
        return flat if self.is_even else flat.index_select(1, self.columns)

    def bias_of(self, task: str) -> nn.Parameter:
        """The task's bias."""
        bias: nn.Parameter = self.task_bias[task]
        return bias


def _gate_columns(weight: Tensor, bias: Tensor | None, *, is_shared: bool) -> Columns:
    if weight.dim() == 2:
        weight, bias = weight.unsqueeze(0), None if bias is None else bias.unsqueeze(0)
    if bias is None:
        bias = weight.new_zeros(len(weight), weight.shape[2])
    return Columns(is_shared, weight, bias)


def _affine(x_BD: Tensor, weight_DN: Tensor, bias_N: Tensor | None) -> Tensor:
    return x_BD @ weight_DN if bias_N is None else torch.addmm(bias_N, x_BD, weight_DN)


def _cat(own_N: Tensor | None, shared_N: Tensor | None) -> Tensor | None:
    return None if own_N is None or shared_N is None else torch.cat([own_N, shared_N])


def _rate_problems(
    rates: Mapping[str, float | Sequence[float]], outputs: Mapping[str, int]
) -> Iterator[str]:
    for task, rate in rates.items():
        if task not in outputs:
            listed = ", ".join(f"`{name}`" for name in outputs)
            yield f"base rate of unknown task `{task}`; tasks are {listed}.{suggest(task, outputs)}"
        elif not isinstance(rate, Sequence):
            if outputs[task] != 1:
                yield f"task `{task}` has {outputs[task]} logits and needs a base rate for each."
            elif not 0.0 <= rate <= 1.0:
                yield f"base rate of task `{task}` must lie between 0 and 1, got {rate!r}."
        elif outputs[task] == 1:
            yield f"task `{task}` has one logit; its base rate is one number, got {list(rate)!r}."
        elif len(rate) != outputs[task]:
            yield f"task `{task}` has {outputs[task]} logits, got base rates for {len(rate)}."
        elif not all(0.0 <= share <= 1.0 for share in rate) or abs(sum(rate) - 1.0) > 1e-3:
            yield (
                f"base rates of task `{task}` must lie between 0 and 1 and add up to 1, got "
                f"{list(rate)!r}."
            )
