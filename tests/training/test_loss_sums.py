"""Sums of losses."""

from __future__ import annotations

import torch

from recmtl.tasks import LossTerms
from recmtl.training.loss_sums import LossSums


def test_each_reader_gets_the_mean_since_it_last_read() -> None:
    sums, one, two = LossSums(), None, None
    for step in range(1, 5):
        ctr = torch.tensor(float(step), requires_grad=True)
        sums.add(LossTerms(2 * ctr, {"ctr": ctr}))
        if step == 2:
            mean, one = sums.since(one)
            assert mean.tolist() == [3.0, 1.5]
            assert not mean.requires_grad
    assert sums.since(one)[0].tolist() == [7.0, 3.5]
    assert sums.since(two)[0].tolist() == [5.0, 2.5]
