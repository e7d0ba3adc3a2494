from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers import ESMM, ESMMConfig, TaskSlot
from tests.reference.esmm import esmm_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = ("ctr", "cvr")


@pytest.mark.parametrize("head_widths", [(), (4,), (5, 4, 3)])
def test_matches_the_equations(head_widths: tuple[int, ...]) -> None:
    tower = randomise(ESMM(ESMMConfig(head_widths=head_widths), in_dim=3, tasks=TASKS))
    expected_BT = esmm_logits(tower.state_dict(), rows(5, 3), TASKS)
    assert_close(tower(rows(5, 3)), expected_BT, rtol=1e-12, atol=1e-12)


def test_unequal_outputs_match_the_equations() -> None:
    slots = (TaskSlot("ctr"), TaskSlot("stars", outputs=3))
    for head_widths in ((), (4,)):
        tower = randomise(ESMM(ESMMConfig(head_widths=head_widths), in_dim=3, tasks=slots))
        expected_BO = esmm_logits(tower.state_dict(), rows(5, 3), ["ctr", "stars"])
        assert_close(tower(rows(5, 3)), expected_BO, rtol=1e-12, atol=1e-12)


def test_gradients_match_finite_differences() -> None:
    tower = randomise(ESMM(ESMMConfig(head_widths=(4, 3)), in_dim=3, tasks=TASKS))
    assert gradcheck_with_parameters(tower, rows(4, 3))


def test_tasks_share_no_parameter() -> None:
    tower = randomise(ESMM(ESMMConfig(head_widths=(4, 3)), in_dim=3, tasks=TASKS))
    tower(rows(8, 3))[:, 1].sum().backward()
    for name, weight in tower.named_parameters():
        assert bool(weight.grad.any()) == name.endswith(".cvr"), name


def test_explain_is_empty_without_hidden_layers() -> None:
    tower = ESMM(ESMMConfig(head_widths=()), in_dim=3, tasks=TASKS)
    assert tower.explain(torch.zeros(2, 3)) == {}
    assert tower.expert_refs() == ()
