from __future__ import annotations

import pytest
import torch

from recmtl.testing.subject import NotApplicable, Subject, changed, tensors_of
from recmtl.towers import (
    CGC,
    ESMM,
    CGCConfig,
    ESMMConfig,
    InputDims,
    MMoE,
    MMoEConfig,
    TaskSlot,
    TowerInput,
)
from tests.testing.towers import FieldConfig, FieldTower


def test_sizes_are_brought_into_a_range_where_everything_has_a_gradient() -> None:
    config = MMoEConfig(
        num_experts=1, expert_widths=(512, 1), gate_widths=(), head_widths=(10,), dropout=0.3
    )
    subject = Subject(MMoE(config, in_dim=3, tasks=("click",)))
    assert subject.lively() == MMoEConfig(
        num_experts=2, expert_widths=(16, 8), gate_widths=(), head_widths=(10,)
    )
    assert subject.smallest() == MMoEConfig(
        num_experts=1, expert_widths=(1,), gate_widths=(), head_widths=(1,), dropout=0.3
    )


def test_sizes_that_the_config_refuses_do_not_apply() -> None:
    subject = Subject(CGC(CGCConfig(), in_dim=3, tasks=("click",)))
    assert subject.sized(num_task_experts=4, num_levels=3).num_task_experts == 4
    with pytest.raises(NotApplicable, match=r"the config refuses .*: `num_task_experts` must be"):
        subject.sized(num_task_experts=-1)


@pytest.mark.parametrize(
    "tasks", [("added_0",), ("added_1", "added_0"), ("added_0", "added_1", "added_2")]
)
def test_further_tasks_have_names_of_their_own(tasks: tuple[str, ...]) -> None:
    subject = Subject(ESMM(ESMMConfig(), in_dim=3, tasks=tasks))
    names = [*subject.names, subject.added]
    assert len(set(names)) == len(names) >= 3
    assert names[: len(tasks)] == list(tasks)


def test_rows_fit_what_the_tower_requires() -> None:
    dims = InputDims(x=3, fields=("a", "b"), field_dim=4, sequences={"click": 6})
    x = Subject(FieldTower(FieldConfig(), in_dim=dims, tasks=("click",))).rows(5)
    assert isinstance(x, TowerInput)
    seq_BLE, lengths_B = x.sequences["click"]
    shapes = [tuple(tensor.shape) for tensor in tensors_of(x)]
    assert shapes == [(5, 3), (5, 2, 4), (5, 6, 4), (5,), (5, 4)]
    for row, length in zip(seq_BLE, lengths_B.tolist(), strict=True):
        assert 1 <= length <= 6
        assert row[:length].all()
        assert not row[length:].any()


def test_changed_names_the_tasks_whose_columns_moved() -> None:
    slots = (TaskSlot("stars", outputs=2), TaskSlot("click"), TaskSlot("buy"))
    before_BO = torch.zeros(3, 4)
    after_BO = before_BO.clone()
    after_BO[2, 1] = after_BO[0, 3] = 1.0
    assert changed(before_BO, after_BO, slots) == ("stars", "buy")
