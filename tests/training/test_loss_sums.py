"""Sums of losses."""

from __future__ import annotations

import json

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


def test_a_restored_reader_reads_the_same_to_the_last_bit() -> None:
    terms = [LossTerms(x, {}) for x in torch.rand(7, generator=torch.Generator().manual_seed(0))]
    sums, reader = LossSums(), None
    assert sums.state(reader) is None
    for one in terms[:3]:
        sums.add(one)
    _, reader = sums.since(reader)
    for one in terms[3:5]:
        sums.add(one)
    again = LossSums()
    state = json.loads(json.dumps(sums.state(reader)))
    its_reader = again.restore([state], torch.device("cpu"), rank=0, ranks=1)
    assert torch.equal(again.since(its_reader)[0], sums.since(reader)[0])
    for one in terms[5:]:
        sums.add(one)
        again.add(one)
    assert torch.equal(again.since(its_reader)[0], sums.since(reader)[0])


def test_every_process_takes_its_own_sums_or_the_first_one_all() -> None:
    states = [
        {"sums": [8.0 + rank], "steps": 4, "read": [2.0], "read_steps": 2} for rank in range(2)
    ]

    def means(ranks: int) -> list[float]:
        found = []
        for rank in range(ranks):
            sums = LossSums()
            reader = sums.restore(states, torch.device("cpu"), rank=rank, ranks=ranks)
            found += sums.since(reader)[0].tolist()
        return found

    assert means(2) == [3.0, 3.5]
    assert means(1) == [6.5]
    assert means(4) == [6.5, 0.0, 0.0, 0.0]
