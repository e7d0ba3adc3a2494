"""`train.compile`: the dense part as CUDA graphs, or through torch.compile, in training alone.

Tables stay outside: their update runs inside backward. What is fast stands in for the plain
function in place, so names and checkpoints do not change, and validation and scoring never see it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recmtl.tasks import LossTerms, TaskSet

__all__ = ["CAPTURING", "Kind", "accelerate_loss", "accelerate_tower", "falls_back", "problem_of"]

Kind = Literal["graphs", "compile"]
Notify = Callable[[str], None]

CAPTURING = threading.Lock()
"""While a graph is captured no other thread may ask CUDA for memory: pinning takes this too."""


def problem_of(kind: Kind, tower: nn.Module, device: torch.device, *, ranks: int) -> str | None:
    """Why the dense part cannot be accelerated, as far as that is known before it is tried.

    Example:
        >>> problem_of("graphs", nn.Linear(1, 1), torch.device("cpu"), ranks=1)
        'CUDA graphs need a CUDA device, this trains on cpu'
    """
    if getattr(tower, "requires", None):
        return "the tower takes more than the input vector"
    if kind == "graphs":
        if device.type != "cuda":
            return f"CUDA graphs need a CUDA device, this trains on {device.type}"
        if ranks > 1:
            return "with several processes gradients are exchanged while backward runs"
        if any(isinstance(m, nn.Dropout) and m.p > 0 for m in tower.modules()):
            return "dropout in a graph would not draw after a restart what it would have drawn"
    return None


def accelerate_tower(tower: nn.Module, kind: Kind, notify: Notify) -> None:
    """Replace `tower.forward` in place, in training alone; a second call changes nothing.

    Args:
        tower: takes one tensor.
        kind: `train.compile`.
        notify: told why it does not work, if it does not; then all stays as it was.
    """
    if not isinstance(tower.forward, _Fast):
        parameters = list(tower.parameters())
        tower.forward = _Fast(tower.forward, tower, parameters, kind, notify)


def accelerate_loss(
    tasks: TaskSet, tower: nn.Module, kind: Kind, notify: Notify
) -> Callable[..., LossTerms]:
    """What to call instead of `tasks.loss`, with all its arguments.

    Args:
        tasks: the tasks.
        tower: while it is in training, the loss is fast.
        kind: `train.compile`.
        notify: told why it does not work, if it does not.
    """

    def plain(
        logits_BH: Tensor,
        labels_BK: Tensor,
        weight_B: Tensor,
        total_weight: Tensor,
        observed_weight_T: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        found = tasks.loss(
            logits_BH,
            labels_BK,
            weight_B,
            total_weight=total_weight,
            observed_weight_T=observed_weight_T,
        )
        return found.total, *found.by_task.values()

    fast = _Fast(plain, tower, [], kind, notify)

    def loss(
        logits_BH: Tensor,
        labels_BK: Tensor,
        weight_B: Tensor,
        *,
        total_weight: Tensor,
        observed_weight_T: Tensor | None,
    ) -> LossTerms:
        observed = () if observed_weight_T is None else (observed_weight_T,)
        total, *terms = fast(logits_BH, labels_BK, weight_B, total_weight, *observed)
        return LossTerms(total, dict(zip(tasks.trained, terms, strict=True)))

    return loss


class _Fast:
    """A function of tensors, made fast at its first call in training, for tensors like those.

    Args:
        plain: the function.
        tower: says whether this is training.
        parameters: what else `plain` reads that has a gradient.
        kind: how it is made fast.
        notify: told why that does not work.
    """

    def __init__(
        self,
        plain: Callable[..., Any],
        tower: nn.Module,
        parameters: Sequence[nn.Parameter],
        kind: Kind,
        notify: Notify,
    ) -> None:
        self.plain = plain
        self._tower = tower
        self._parameters = parameters
        self._kind = kind
        self._notify = notify
        self._fast: Callable[..., Any] | None = None
        self._made_for: list[object] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fast:
        """The same of the copied tower; what is fast belongs to the weights of this one."""
        plain, tower, parameters = copy.deepcopy(
            (self.plain, self._tower, list(self._parameters)), memo
        )
        return _Fast(plain, tower, parameters, self._kind, self._notify)

    def __call__(self, *tensors: Tensor) -> Any:
        if not (self._tower.training and torch.is_grad_enabled()):
            return self.plain(*tensors)
        alike = [(t.shape, t.dtype, t.device, t.requires_grad) for t in tensors]
        if self._made_for is None:
            self._made_for = [*alike]
            self._make(tensors)
        if self._fast is None or alike != self._made_for:
            return self.plain(*tensors)
        return self._fast(*tensors)

    def _make(self, tensors: tuple[Tensor, ...]) -> None:
        """Make it and run it once, forward and backward: failures show here."""
        make = {"compile": self._compiled, "graphs": self._graphed}[self._kind]
        cuda = [tensor.device for tensor in tensors if tensor.is_cuda]
        try:
            with torch.random.fork_rng(devices=cuda[:1]):
                self._fast = make([t.detach().requires_grad_(t.requires_grad) for t in tensors])
        except Exception as error:  # those of compilers are of many kinds
            lines = str(error).strip().splitlines() or ["no reason given"]
            problem = f"{type(error).__name__}: {lines[0]}"
            self._notify(falls_back(self._kind, problem))

    def _compiled(self, tensors: list[Tensor]) -> Callable[..., Any]:
        fast = torch.compile(self.plain, dynamic=False)
        found = fast(*tensors)
        outputs = [found] if isinstance(found, Tensor) else found
        total = torch.stack([output.float().sum() for output in outputs]).sum()
        inputs = [t for t in (*tensors, *self._parameters) if t.requires_grad]
        torch.autograd.grad(total, inputs, allow_unused=True)  # leaves no gradient anywhere
        return fast

    def _graphed(self, tensors: list[Tensor]) -> Callable[..., Any]:
        autocast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,  # so that a graph casts its weights itself
        )
        own = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
        with CAPTURING, autocast:
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(
                _Alone(self.plain, self._parameters), own, allow_unused_input=True
            )
        return graphed


class _Alone(nn.Module):
    """A function as a module with the parameters that it reads."""

    def __init__(self, function: Callable[..., Any], parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.function = function
        self.read = nn.ParameterList(parameters)

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def falls_back(kind: Kind, problem: str) -> str:
    """The notice that training goes on without it."""
    return f"train.compile: `{kind}` does not work here ({problem}). Training goes on without it."
