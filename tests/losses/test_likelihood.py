from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.losses import joint_likelihood

LOSSES_BT = torch.tensor([[1.0, 8.0], [2.0, 9.0], [4.0, 5.0]])
OBSERVED_BT = torch.tensor([[True, False], [True, True], [False, True]])
WEIGHT_B = torch.tensor([1.0, 2.0, 5.0])


def test_divides_by_the_weight_of_all_rows() -> None:
    terms_T = joint_likelihood(LOSSES_BT, OBSERVED_BT, WEIGHT_B)
    assert_close(terms_T, torch.tensor([(1 + 2 * 2) / 8, (2 * 9 + 5 * 5) / 8]))


def test_divides_by_each_tasks_observed_weight() -> None:
    terms_T = joint_likelihood(LOSSES_BT, OBSERVED_BT, WEIGHT_B, normalize="observed")
    assert_close(terms_T, torch.tensor([(1 + 2 * 2) / 3, (2 * 9 + 5 * 5) / 7]))


def test_task_weights_multiply_the_terms() -> None:
    terms_T = joint_likelihood(
        LOSSES_BT, OBSERVED_BT, WEIGHT_B, task_weight_T=torch.tensor([0.0, 3.0])
    )
    assert_close(terms_T, torch.tensor([0.0, 3 * (2 * 9 + 5 * 5) / 8]))


@pytest.mark.parametrize("normalize", ["rows", "observed"])
def test_parts_of_a_batch_add_up_to_the_whole(normalize: str) -> None:
    whole_T = joint_likelihood(LOSSES_BT, OBSERVED_BT, WEIGHT_B, normalize=normalize)
    parts = [
        joint_likelihood(
            LOSSES_BT[rows],
            OBSERVED_BT[rows],
            WEIGHT_B[rows],
            normalize=normalize,
            total_weight=WEIGHT_B.sum(),
            observed_weight_T=(OBSERVED_BT * WEIGHT_B[:, None]).sum(0),
        )
        for rows in (slice(0, 1), slice(1, 3))
    ]
    assert_close(sum(parts), whole_T)


@pytest.mark.parametrize("normalize", ["rows", "observed"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_nothing_observed_is_exactly_zero(normalize: str, weight: float) -> None:
    losses_BT = LOSSES_BT.clone().requires_grad_()
    nowhere_BT = torch.zeros_like(OBSERVED_BT)
    terms_T = joint_likelihood(losses_BT, nowhere_BT, torch.full((3,), weight), normalize=normalize)
    terms_T.sum().backward()
    assert terms_T.tolist() == [0.0, 0.0]
    assert losses_BT.grad is not None
    assert losses_BT.grad.eq(0).all()


def test_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`normalize` must be one of .* Did you mean `rows`\?"):
        joint_likelihood(LOSSES_BT, OBSERVED_BT, WEIGHT_B, normalize="row")
