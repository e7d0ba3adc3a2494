"""Checks of gates and parameters: T06, T07, T09 and what each task's loss reaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recmtl.testing.subject import NotApplicable, Subject, close, tensors_of

__all__ = [
    "check_explain_changes_nothing",
    "check_gates",
    "check_gates_are_parameters",
    "check_heads",
    "check_parameters_are_trained",
    "check_state_round_trip",
]


def check_gates(subject: Subject) -> None:
    """T06: a row's gates sum to 1 in train and eval, and depend on that row alone."""
    for config in (subject.config, subject.lively()):
        tower = subject.build(subject.names, config=config)
        for mode in (False, True):
            gates = _gates(tower.train(mode), subject.rows(16))
            for key, gate_BE in gates.items():
                total_B = gate_BE.sum(dim=-1)
                assert close(total_B, torch.ones_like(total_B)), (
                    f"T06: the weights of `{key}` do not sum to 1 in {_mode(mode)} mode; nothing "
                    "may drop or scale them after the softmax."
                )
                assert bool((gate_BE >= 0).all()), f"T06: `{key}` has negative weights."
    for mode in (False, True):
        tower.train(mode)
        torch.manual_seed(1)
        alone = _gates(tower, _first(subject.rows(16), 4))
        torch.manual_seed(1)
        for key, gate_BE in _gates(tower, subject.rows(16)).items():
            assert close(gate_BE[:4], alone[key]), (
                f"T06: a row's weights in `{key}` depend on the other rows of the batch in "
                f"{_mode(mode)} mode; no batch norm before or after the softmax."
            )
    x = subject.rows(16)
    if subject.has("dropout"):
        assert close(tower(x), tower(x)), (
            "T06: with `dropout=0` two passes of one batch in train mode differ; something else is "
            "random, such as dropout after the softmax."
        )


def check_gates_are_parameters(subject: Subject) -> None:
    """T07: gates are trained, and part of what is saved and loaded."""
    tower = subject.build(subject.names, config=subject.lively())
    x = subject.rows(32)
    before = _gates(tower, x)
    loaded = subject.build(subject.names, config=subject.lively(), seed=1)
    loaded.load_state_dict(tower.state_dict())
    for key, gate_BE in _gates(loaded, x).items():
        assert close(gate_BE, before[key]), (
            f"T07: `{key}` does not survive saving and loading; its tensors must be parameters of "
            "the tower (not kept in a plain list)."
        )
    optimizer = torch.optim.SGD([p for _, p in tower.named_parameters()], lr=1.0)
    tower(x).square().sum().backward()
    optimizer.step()
    for key, gate_BE in _gates(tower, x).items():
        assert not close(gate_BE, before[key]), (
            f"T07: `{key}` does not change after a step; its tensors must be in "
            "`named_parameters()` and read by every task's output."
        )


def check_state_round_trip(subject: Subject) -> None:
    """T07: all that `forward` needs is in the state dict."""
    tower, loaded = subject.build().eval(), subject.build(seed=1).eval()
    loaded.load_state_dict(tower.state_dict())
    x = subject.rows(8)
    assert close(loaded(x), tower(x)), (
        "T07: a tower with this tower's state loaded gives other logits; something that `forward` "
        "uses is no parameter or buffer."
    )


def check_parameters_are_trained(subject: Subject) -> None:
    """T09: every parameter has a gradient after one backward of the summed losses."""
    for config, alive in ((subject.config, False), (subject.lively(), True)):
        tower = subject.awake(subject.build(subject.names, config=config))
        tower(subject.rows(64)).square().sum().backward()
        for name, weight in tower.named_parameters():
            if weight.requires_grad:
                reached = weight.grad is not None and (not alive or bool(weight.grad.any()))
                assert reached, (
                    f"T09: parameter `{name}` gets no gradient from the summed task losses; remove "
                    "it, or connect it."
                )


def check_heads(subject: Subject) -> None:
    """heads: some parameters belong to each task alone, and named ones to the task they name."""
    names = [*subject.names, subject.added]
    tower = subject.awake(subject.build(names, config=subject.lively()))
    reach = _reach(tower, subject.rows(64))
    for task in names:
        assert {task} in reach.values(), (
            f"heads: no parameter is moved by the loss of task `{task}` alone; each task has a "
            "head of its own, stored under its name."
        )
    for key, tasks in reach.items():
        for task in set(key.split(".")) & set(names):
            assert task in tasks, (
                f"heads: parameter `{key}` is not moved by the loss of `{task}`, whose name it has."
            )


def check_explain_changes_nothing(subject: Subject) -> None:
    """explain: it returns tensors by name and leaves tower, input and logits as they were."""
    tower, x = subject.build().eval(), subject.rows(8)
    kept, before_BO = [tensor.clone() for tensor in tensors_of(x)], tower(x)
    state = {key: value.clone() for key, value in tower.state_dict().items()}
    found = tower.explain(x)
    assert isinstance(found, dict), "explain: it must return a dict of tensors."
    same = [*map(torch.equal, tensors_of(x), kept), not tower.training]
    same += [torch.equal(value, state[key]) for key, value in tower.state_dict().items()]
    same.append(close(tower(x), before_BO))
    assert all(same), "explain: it changes the tower, its mode, its input or its logits."
    assert not any(value.requires_grad for value in found.values()), (
        "explain: its tensors must carry no gradient; run it under `torch.no_grad()`."
    )


def _gates(tower: Any, x: Any) -> dict[str, Tensor]:
    found = {
        key: value
        for key, value in tower.explain(x).items()
        if "/gates/" in f"/{key}" or key.split("/")[-1] == "shared_gate"
    }
    if not found:
        raise NotApplicable("`explain` returns no gates")
    return found


def _reach(tower: Any, x: Any) -> dict[str, set[str]]:
    """Parameter -> the tasks whose logits give it a gradient."""
    names = [name for name, weight in tower.named_parameters() if weight.requires_grad]
    weights = [tower.get_parameter(name) for name in names]
    reach: dict[str, set[str]] = {name: set() for name in names}
    parts = tower(x).split([slot.outputs for slot in tower.tasks], dim=1)
    for slot, logits_BO in zip(tower.tasks, parts, strict=True):
        gradients = torch.autograd.grad(
            logits_BO.square().sum(), weights, retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None and gradient.any():
                reach[name].add(slot.name)
    return reach


def _first(x: Any, count: int) -> Any:
    """The first rows of an input."""
    if isinstance(x, Tensor):
        return x[:count]
    if isinstance(x, dict):
        return {key: tuple(part[:count] for part in pair) for key, pair in x.items()}
    return type(x)(*(part if part is None else _first(part, count) for part in x))


def _mode(training: bool) -> str:
    return "train" if training else "eval"
