"""Checks of what every tower promises: T08, T10 to T12, and the rules of its interface."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from recmtl.testing.subject import NotApplicable, Subject, changed, close, tensors_of
from recmtl.towers import TaskSlot

__all__ = [
    "check_arguments_are_kept",
    "check_base_rates",
    "check_class_rates",
    "check_config",
    "check_export",
    "check_input_is_untouched",
    "check_one_row",
    "check_outputs",
    "check_rows_are_independent",
    "check_smallest",
    "check_state_keys",
    "check_storage",
    "check_symbolic_trace",
    "check_task_circles",
    "check_task_order",
]


def check_arguments_are_kept(subject: Subject) -> None:
    """contract: config, in_dim and tasks build the same tower again."""
    tower = subject.tower
    assert all(isinstance(slot, TaskSlot) for slot in tower.tasks), (
        "contract: `tasks` must be kept as a tuple of `TaskSlot`; use `task_slots`."
    )
    assert isinstance(type(tower).requires, frozenset), (
        "contract: `requires` must be a frozenset on the class."
    )
    given = {key: value.shape for key, value in tower.state_dict().items()}
    again = {key: value.shape for key, value in subject.build().state_dict().items()}
    assert given == again, (
        "contract: building the tower again from its `config`, `in_dim` and `tasks` gives other "
        f"parameters: {sorted(given.keys() ^ again.keys()) or 'other shapes'}."
    )


def check_config(subject: Subject) -> None:
    """config: a frozen dataclass with a `kind` that rejects unknown keys."""
    config = subject.config
    assert dataclasses.is_dataclass(config), "config: it must be a frozen dataclass."
    assert hasattr(config, "kind"), "config: it has no `kind`, the tower's name in YAML."
    make: Any = type(config)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    try:
        make(**values, no_such_key=1)
    except TypeError:
        pass
    else:
        raise AssertionError("config: it accepts the unknown key `no_such_key`.")
    try:
        config.kind = config.kind
    except (dataclasses.FrozenInstanceError, AttributeError, TypeError):
        return
    raise AssertionError("config: it can be changed; declare it with `frozen=True`.")


def check_smallest(subject: Subject) -> None:
    """T12: forward and backward run from the given config and from the smallest one."""
    configs = [subject.config]
    with contextlib.suppress(NotApplicable):
        configs.append(subject.smallest())
    for config in configs:
        for tasks in (subject.names[:1], subject.names, [*subject.names, subject.added]):
            tower = subject.build(tasks, config=config)
            logits_BO = tower(subject.rows(5))
            assert logits_BO.shape == (5, len(tasks)), (
                f"T12: 5 rows and {len(tasks)} tasks give logits of shape "
                f"{tuple(logits_BO.shape)}, expected (5, {len(tasks)})."
            )
            assert bool(logits_BO.isfinite().all()), "T12: logits of random rows are not finite."
            logits_BO.sum().backward()


def check_one_row(subject: Subject) -> None:
    """T08: a batch of one row works in train and eval."""
    for tasks in (subject.names, subject.tower.tasks):
        tower = subject.build(tasks)
        expected = (1, sum(slot.outputs for slot in tower.tasks))
        for mode in (True, False):
            shape = tuple(tower.train(mode)(subject.rows(1)).shape)
            assert shape == expected, (
                f"T08: one row gives logits of shape {shape}, expected {expected}."
            )


def check_outputs(subject: Subject) -> None:
    """outputs: a task gets as many logits as its slot asks for."""
    first, second, *_ = subject.names
    slots = [TaskSlot(first, outputs=3), TaskSlot(second), TaskSlot(subject.added, outputs=2)]
    tower, x = subject.build(slots, config=subject.lively()).eval(), subject.rows(6)
    before_BO = tower(x)
    assert before_BO.shape == (6, 6), (
        f"outputs: slots of 3, 1 and 2 outputs give logits of shape {tuple(before_BO.shape)} for 6 "
        "rows, expected (6, 6)."
    )
    tower.set_base_rates({second: 0.01})
    assert changed(before_BO, tower(x), slots) == (second,), (
        f"outputs: the column of `{second}` is not where 3 outputs of the task before put it."
    )


def check_rows_are_independent(subject: Subject) -> None:
    """rows: in eval mode a row's logits do not depend on the other rows."""
    for config in (subject.config, subject.lively()):
        tower = subject.build(subject.names, config=config).eval()
        x, other = subject.rows(12), subject.rows(12, seed=1)
        mixed = _with_rows(x, other, 5)
        assert close(tower(mixed)[:5], tower(x)[:5]), (
            "rows: in eval mode a row's logits change with the other rows of the batch."
        )


def check_input_is_untouched(subject: Subject) -> None:
    """input: forward and backward leave the input as it was."""
    tower = subject.build(subject.names)
    for mode in (True, False):
        x = subject.rows(6)
        kept = [tensor.clone() for tensor in tensors_of(x)]
        tower.train(mode)(x).sum().backward()
        assert all(map(torch.equal, tensors_of(x), kept)), "input: `forward` changes its input."


def check_storage(subject: Subject) -> None:
    """T10: two towers built from one config share no storage."""
    first, second = subject.build(), subject.build(seed=1)
    shared = _storages(first).keys() & _storages(second).keys()
    names = sorted(_storages(first)[pointer] for pointer in shared)
    assert not names, f"T10: two towers built from one config share the storage of {names}."


def check_task_order(subject: Subject) -> None:
    """T11: permuting the tasks permutes the logits and changes nothing else."""
    slots = [TaskSlot(name) for name in (*subject.names, subject.added)]
    _check_order(subject, slots)
    _check_order(subject, [slots[0], TaskSlot(slots[1].name, outputs=3), *slots[2:]])


def _check_order(subject: Subject, slots: list[TaskSlot]) -> None:
    moved = slots[1:] + slots[:1]
    tower = subject.build(slots, config=subject.lively()).eval()
    other = subject.build(moved, config=subject.lively(), seed=1).eval()
    try:
        other.load_state_dict(tower.state_dict())
    except RuntimeError as mismatch:
        raise AssertionError(
            "T11: the state of a tower does not load into one with its tasks in another order; "
            f"keep a task's parameters under its name ({mismatch})."
        ) from mismatch
    x = subject.rows(8)
    parts = tower(x).split([slot.outputs for slot in slots], dim=1)
    assert close(other(x), torch.cat([*parts[1:], parts[0]], dim=1)), (
        "T11: with the tasks in another order and the same state, logits are not the same columns "
        "in that order."
    )


def check_task_circles(subject: Subject) -> None:
    """T11: tasks that come after one another in a circle are refused."""
    first, second, *_ = subject.names
    slots = [TaskSlot(first, after=(second,)), TaskSlot(second, after=(first,))]
    try:
        subject.build(slots)
    except ValueError:
        return
    raise AssertionError("T11: tasks that come after one another in a circle are not refused.")


def check_state_keys(subject: Subject) -> None:
    """keys: those of a tower survive an added task."""
    config = subject.lively()
    before = subject.build(subject.names, config=config).state_dict()
    after = subject.build([subject.added, *subject.names], config=config).state_dict()
    for key, value in before.items():
        assert key in after, f"keys: state key `{key}` is gone when a task is added."
        assert after[key].shape == value.shape, (
            f"keys: state key `{key}` changes its shape from {tuple(value.shape)} to "
            f"{tuple(after[key].shape)} when a task is added; keep a task's part under its name."
        )


def check_base_rates(subject: Subject) -> None:
    """Base rates: they shift a task's logits, and nothing else; unknown tasks are refused."""
    tower, x = subject.build(subject.names, config=subject.lively()).eval(), subject.rows(6)
    first = subject.names[0]
    with torch.no_grad():
        tower.set_base_rates({first: 0.5})
        half_BT = tower(x).clone()
        tower.set_base_rates({first: 0.02})
        shift_BT = tower(x) - half_BT
    expected_BT = torch.zeros_like(shift_BT)
    expected_BT[:, 0] = math.log(0.02 / 0.98)
    assert close(shift_BT, expected_BT), (
        f"base rates: from 0.5 to 0.02 the logits of `{first}` must shift by the logit of 0.02, "
        "and no other task's; the last bias of its head is set, and no sigmoid follows."
    )
    try:
        tower.set_base_rates({"no_such_task": 0.5})
    except ValueError:
        return
    raise AssertionError("base rates: that of an unknown task is not refused.")


def check_class_rates(subject: Subject) -> None:
    """Class rates: those of a task with several outputs become its logits, and nothing else."""
    first, second, *_ = subject.names
    slots = [TaskSlot(first), TaskSlot(second, outputs=3)]
    tower, x = subject.build(slots, config=subject.lively()).eval(), subject.rows(6)
    with torch.no_grad():
        tower.set_base_rates({first: 0.5, second: (0.25, 0.25, 0.5)})
        even_BO = tower(x).clone()
        tower.set_base_rates({second: (0.5, 0.25, 0.25)})
        shift_BO = tower(x) - even_BO
    expected_BO = torch.zeros_like(shift_BO)
    expected_BO[:, 1], expected_BO[:, 3] = math.log(2), -math.log(2)
    assert close(shift_BO, expected_BO), (
        f"class rates: from (0.25, 0.25, 0.5) to (0.5, 0.25, 0.25) the logits of `{second}` must "
        "shift by the logarithms' differences, and no other task's; they are its head's last "
        "biases."
    )


def check_symbolic_trace(subject: Subject) -> None:
    """trace: torch.fx follows `forward`, and reads the parameters anew each time."""
    tower, x = subject.build().eval(), subject.rows(6)
    traced = fx.symbolic_trace(tower)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.mul_(1.5)
    assert close(traced(x), tower(x)), (
        "trace: the tower traced by torch.fx gives other logits; `forward` must not branch on data "
        "nor keep tensors computed before."
    )


def check_export(subject: Subject) -> None:
    """export: torch.export takes it, for any number of rows."""
    tower, x = subject.build().eval(), subject.rows(6)
    rows, shapes = torch.export.Dim("rows"), cast("Any", torch.export.ShapesCollection)()
    for tensor in tensors_of(x):
        shapes[tensor] = {0: rows}
    exported = torch.export.export(tower, (x,), dynamic_shapes=shapes).module()
    for count in (1, 7):
        other = subject.rows(count, seed=count)
        assert close(exported(other), tower(other)), (
            f"export: the exported tower gives other logits for {count} rows."
        )


def _storages(tower: nn.Module) -> dict[int, str]:
    tensors: list[tuple[str, Tensor]] = [*tower.named_parameters(), *tower.named_buffers()]
    return {t.untyped_storage().data_ptr(): name for name, t in tensors if t.numel()}


def _with_rows(x: Any, other: Any, start: int) -> Any:
    """An input with the rows from `start` on taken from another one."""
    if isinstance(x, Tensor):
        return torch.cat([x[:start], other[start:]])
    if isinstance(x, dict):
        return {
            key: tuple(_with_rows(a, b, start) for a, b in zip(x[key], other[key], strict=True))
            for key in x
        }
    return type(x)(
        *(a if a is None else _with_rows(a, b, start) for a, b in zip(x, other, strict=True))
    )
