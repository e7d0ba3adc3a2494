"""Checks of experts: T01 to T05."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recmtl.testing.subject import NotApplicable, Subject, changed, close
from recmtl.towers import ExpertRef, TaskSlot

__all__ = [
    "check_distinct_units",
    "check_every_level_is_alive",
    "check_expert_owners",
    "check_names_are_whole",
    "check_shared_gate",
]


def check_distinct_units(subject: Subject) -> None:
    """T01: after 20 steps units differ from each other, and experts differ from one another."""
    tower = subject.build(subject.names, config=subject.lively())
    _train(tower, subject.rows(64), steps=20)
    for name, weight in tower.named_parameters():
        for matrix in weight.detach().flatten(0, -3) if weight.dim() > 2 else [weight.detach()]:
            assert not _all_alike(matrix), (
                f"T01: after 20 steps all units of `{name}` are still alike; draw its initial "
                "values at random."
            )
    try:
        refs = subject.refs(tower)
    except NotApplicable:
        return
    weights = dict(tower.named_parameters())
    firsts = [(ref, _part(weights, ref)) for ref in refs]
    for (ref, first), (other, second) in itertools.combinations(firsts, 2):
        if ref.level == other.level and first.shape == second.shape:
            distance = (first - second).norm() / (first.norm() + second.norm())
            assert distance > 0.1, (
                f"T01: after 20 steps experts `{ref.name}` and `{other.name}` of level {ref.level} "
                "have nearly the same weights; draw each one's own."
            )


def check_expert_owners(subject: Subject) -> None:
    """T02: an expert moves exactly the tasks that it serves, and as many are built as asked for."""
    try:
        subject.refs(subject.build(subject.names, config=subject.lively()))
    except NotApplicable:
        _check_more_is_more(subject)
        raise
    for sizes in _combinations(subject):
        for tasks in (_names(count) for count in range(1, 5)):
            config = subject.sized(num_levels=2, **sizes)
            slots = [TaskSlot(task, group="ab"[t % 2]) for t, task in enumerate(tasks)]
            tower = subject.awake(subject.build(slots, config=config)).eval()
            refs = subject.refs(tower)
            _check_counts(subject, refs, slots, config)
            _check_moves(subject, tower, refs, "T02")


def check_shared_gate(subject: Subject) -> None:
    """T03: below the top level the shared gate weighs all experts and reaches every task's."""
    config = subject.sized(num_levels=2, num_task_experts=2, num_shared_experts=3)
    tower = subject.build(_names(3), config=config)
    gate_BE = tower.explain(subject.rows(16)).get("level_1/shared_gate")
    if gate_BE is None:
        raise NotApplicable("`explain` has no `level_1/shared_gate`")
    if subject.has("num_task_experts", "num_shared_experts", "num_levels"):
        expected = 3 * config.num_task_experts + config.num_shared_experts
        assert gate_BE.shape[1] == expected, (
            f"T03: the shared gate of level 1 has {gate_BE.shape[1]} outputs for 3 tasks, expected "
            f"{expected}: every task's experts and the shared ones."
        )
    assert bool((gate_BE > 0).all()), (
        "T03: the shared gate of level 1 gives some experts no weight; it reads every task's "
        "experts and the shared ones."
    )
    for ref in subject.refs(tower):
        if ref.level == 1:
            _check_gradients(subject, tower, ref, "T03")


def check_every_level_is_alive(subject: Subject) -> None:
    """T04: with three levels every expert has a gradient, and level 1 moves the output."""
    if not subject.has("num_levels"):
        raise NotApplicable("the config has no `num_levels`")
    tower = subject.build(_names(3), config=subject.sized(num_levels=3)).eval()
    refs = subject.refs(tower)
    levels = {ref.level for ref in refs}
    assert levels == {1, 2, 3}, (
        f"T04: with `num_levels=3` experts stand on levels {sorted(levels)}, expected 1, 2 and 3."
    )
    tower(subject.rows(64)).square().sum().backward()
    for ref in refs:
        assert any(_gradient(tower, key, index).any() for key, index in ref.parameters), (
            f"T04: expert `{ref.name}` of level {ref.level} gets no gradient in a tower of three "
            "levels."
        )
    _check_moves(subject, tower, [ref for ref in refs if ref.level == 1], "T04")


def check_names_are_whole(subject: Subject) -> None:
    """T05: tasks `click`, `click_buy` and `buy` are told apart, whatever their prefixes."""
    tricky, plain = ("click", "click_buy", "buy"), ("red", "green", "blue")
    config, rename = subject.lively(), dict(zip(("click", "click_buy", "buy"), plain, strict=True))
    tower, other = subject.build(tricky, config=config).eval(), subject.build(plain, config=config)
    renamed = {
        ".".join(rename.get(part, part) for part in key.split(".")): value
        for key, value in tower.state_dict().items()
    }
    expected = {key: value.shape for key, value in other.state_dict().items()}
    assert {key: value.shape for key, value in renamed.items()} == expected, (
        "T05: a tower for tasks `click`, `click_buy` and `buy` has other parameters than one for "
        "`red`, `green` and `blue`; a task's parameters belong under its whole name."
    )
    other.load_state_dict(renamed)
    x = subject.rows(8)
    assert close(tower(x), other.eval()(x)), (
        "T05: tasks named `click`, `click_buy` and `buy` get other logits than the same weights "
        "under `red`, `green` and `blue`; something selects by a part of the name."
    )
    try:
        refs = subject.refs(tower)
    except NotApplicable:
        return
    _check_moves(subject, tower, refs, "T05")


def _combinations(subject: Subject) -> list[dict[str, int]]:
    counts = range(1, 5)
    if subject.has("num_task_experts", "num_shared_experts"):
        return [
            {"num_task_experts": own, "num_shared_experts": shared}
            for own in counts
            for shared in counts
        ]
    if subject.has("num_experts"):
        return [{"num_experts": count} for count in counts]
    return [{}]


def _check_counts(
    subject: Subject, refs: Sequence[ExpertRef], slots: Sequence[TaskSlot], config: Any
) -> None:
    expected = _expected(subject, slots, config)
    if expected is None:
        return
    names = ("num_experts", "num_task_experts", "num_group_experts", "num_shared_experts")
    asked = ", ".join(f"{name}={getattr(config, name)}" for name in names if subject.has(name))
    top = max(ref.level for ref in refs)
    for level, built in Counter(ref.level for ref in refs).items():
        owners = expected if level == top or not subject.has("num_group_experts") else expected[1:]
        total = sum(count for counts in owners for count in counts.values())
        assert built == total, (
            f"T02: level {level} has {built} experts for {len(slots)} tasks and {asked}, "
            f"expected {total}."
        )
    if len(slots) > 1 and subject.has("num_task_experts"):
        served = Counter(ref.tasks for ref in refs if ref.level == top)
        wanted = Counter[tuple[str, ...]]()
        for counts in expected:
            wanted.update(counts)
        assert served == wanted, (
            f"T02: for {asked} the experts of the last level serve {dict(served)}, "
            f"expected {dict(wanted)}."
        )


def _expected(
    subject: Subject, slots: Sequence[TaskSlot], config: Any
) -> list[dict[tuple[str, ...], int]] | None:
    """How many experts serve which tasks: those of tasks, of groups, and shared ones."""
    names = tuple(slot.name for slot in slots)
    if subject.has("num_experts"):
        return [{names: config.num_experts}]
    if not subject.has("num_task_experts", "num_shared_experts"):
        return None
    groups: dict[str, tuple[str, ...]] = {}
    if subject.has("num_group_experts"):
        for slot in slots:
            groups[slot.group] = (*groups.get(slot.group, ()), slot.name)
    num_group = getattr(config, "num_group_experts", 0)
    by_group = dict.fromkeys(groups.values(), num_group)
    if not getattr(config, "hierarchy", True):  # experts of groups are everybody's
        by_group = {names: num_group * len(groups)}
    own: dict[tuple[str, ...], int] = {(name,): config.num_task_experts for name in names}
    return [own, by_group, {names: config.num_shared_experts}]


def _check_moves(subject: Subject, tower: Any, refs: Sequence[ExpertRef], check: str) -> None:
    """Perturb each expert alone and see which tasks' logits move."""
    _check_disjoint(refs, check)
    x, weights = subject.rows(8), dict(tower.named_parameters())
    with torch.no_grad():
        before_BO = tower(x)
        for ref in refs:
            kept = [weights[key][index].clone() for key, index in ref.parameters]
            for key, index in ref.parameters:
                weights[key][index] += torch.randn(weights[key][index].shape)
            moved = changed(before_BO, tower(x), tower.tasks)
            for (key, index), value in zip(ref.parameters, kept, strict=True):
                weights[key][index] = value
            assert moved == ref.tasks, (
                f"{check}: changing expert `{ref.name}` of level {ref.level} moves the logits of "
                f"{_listed(moved)}, expected {_listed(ref.tasks)}."
            )


def _check_disjoint(refs: Sequence[ExpertRef], check: str) -> None:
    owner: dict[tuple[str, int | None], str] = {}
    for ref in refs:
        for part in ref.parameters:
            assert part not in owner, (
                f"{check}: experts `{owner[part]}` and `{ref.name}` share `{part[0]}`; each expert "
                "has weights of its own."
            )
            owner[part] = ref.name


def _check_gradients(subject: Subject, tower: Any, ref: ExpertRef, check: str) -> None:
    """Each task's logits alone give the expert a gradient."""
    x, widths = subject.rows(64), [slot.outputs for slot in tower.tasks]
    for t, slot in enumerate(tower.tasks):
        tower.zero_grad()
        tower(x).split(widths, dim=1)[t].square().sum().backward()
        assert any(_gradient(tower, key, index).any() for key, index in ref.parameters), (
            f"{check}: no gradient of task `{slot.name}` reaches expert `{ref.name}` of level "
            f"{ref.level}; below the top level the shared gate connects them."
        )


def _check_more_is_more(subject: Subject) -> None:
    """The part of T02 that needs no `expert_refs`: each expert asked for adds as many weights."""
    for name in ("num_experts", "num_shared_experts", "num_task_experts", "num_levels"):
        if subject.has(name):
            config = [subject.sized(**{name: count}) for count in (2, 3, 4)]
            sizes = [
                sum(p.numel() for p in subject.build(subject.names, config=c).parameters())
                for c in config
            ]
            assert sizes[0] < sizes[1] < sizes[2], (
                f"T02: with `{name}` 2, 3 and 4 the tower has {sizes} weights; each one more adds "
                "weights."
            )


def _train(tower: Any, x: Any, *, steps: int) -> None:
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.05)
    with torch.no_grad():
        target_BO = (torch.rand_like(tower(x)) < 0.5).float()
    for _ in range(steps):
        optimizer.zero_grad()
        loss: Any = nn.functional.binary_cross_entropy_with_logits(tower(x), target_BO)
        loss.backward()
        optimizer.step()


def _all_alike(matrix: Tensor) -> bool:
    """Whether all rows, or all columns, of a matrix of at least two each are the same."""
    if matrix.dim() < 2 or min(matrix.shape) < 2:
        return False
    rows, columns = (matrix - matrix[:1]).abs().max(), (matrix - matrix[:, :1]).abs().max()
    return bool(torch.minimum(rows, columns) <= 1e-6 * matrix.abs().max())


def _part(weights: dict[str, Tensor], ref: ExpertRef) -> Tensor:
    """The expert's first weight matrix."""
    parts = [weights[key][index].detach() for key, index in ref.parameters]
    return next((part for part in parts if part.dim() > 1), parts[0])


def _gradient(tower: Any, key: str, index: int | None) -> Tensor:
    weight = tower.get_parameter(key)
    return weight.grad[index] if weight.grad is not None else torch.zeros(1)


def _names(count: int) -> list[str]:
    return ["click", "like", "share", "buy"][:count]


def _listed(tasks: Sequence[str] | Sequence[TaskSlot]) -> str:
    return ", ".join(f"`{task}`" for task in tasks) or "no task"
