from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers import SharedBottom, SharedBottomConfig, TaskSlot
from tests.reference.shared_bottom import shared_bottom_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = ("click", "buy")


@pytest.mark.parametrize("head_widths", [(), (3,), (4, 3)])
@pytest.mark.parametrize("expert_widths", [(4,), (5, 4)])
def test_matches_the_equations(
    expert_widths: tuple[int, ...], head_widths: tuple[int, ...]
) -> None:
    config = SharedBottomConfig(expert_widths=expert_widths, head_widths=head_widths)
    tower = randomise(SharedBottom(config, in_dim=3, tasks=TASKS))
    expected_BT = shared_bottom_logits(tower.state_dict(), rows(5, 3), TASKS)
    assert_close(tower(rows(5, 3)), expected_BT, rtol=1e-12, atol=1e-12)


def test_unequal_outputs_match_the_equations() -> None:
    slots = (TaskSlot("stars", outputs=3), TaskSlot("click"), TaskSlot("band", outputs=2))
    for head_widths in ((), (3,)):
        config = SharedBottomConfig(expert_widths=(4,), head_widths=head_widths)
        tower = randomise(SharedBottom(config, in_dim=3, tasks=slots))
        names = [slot.name for slot in slots]
        expected_BO = shared_bottom_logits(tower.state_dict(), rows(5, 3), names)
        assert expected_BO.shape == (5, 6)
        assert_close(tower(rows(5, 3)), expected_BO, rtol=1e-12, atol=1e-12)


def test_gradients_match_finite_differences() -> None:
    config = SharedBottomConfig(expert_widths=(5, 4), head_widths=(3,))
    tower = randomise(SharedBottom(config, in_dim=3, tasks=TASKS))
    assert gradcheck_with_parameters(tower, rows(4, 3))


def test_dropout_acts_in_train_mode_alone() -> None:
    config = SharedBottomConfig(expert_widths=(64,), head_widths=(64,), dropout=0.5)
    tower, x_BD = SharedBottom(config, in_dim=8, tasks=TASKS), torch.randn(4, 8)
    assert not torch.equal(tower(x_BD), tower(x_BD))
    tower.eval()
    assert_close(tower(x_BD), tower(x_BD))


def test_config_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"`expert_widths` must hold at least one entry, got none"):
        SharedBottomConfig(expert_widths=())
    with pytest.raises(ValueError, match=r"`head_widths` must hold positive integers, got \[0\]"):
        SharedBottomConfig(head_widths=(0,))
    with pytest.raises(ValueError, match=r"`dropout` must be at least 0 and below 1, got 1\.0"):
        SharedBottomConfig(dropout=1.0)
