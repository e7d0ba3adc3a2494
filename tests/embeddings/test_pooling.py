"""Divisors of mean bags, against numbers worked out by hand."""

from __future__ import annotations

import torch

from recmtl.batch import Ragged
from recmtl.embeddings.pooling import finish_bag, positions, rows_of
from recmtl.embeddings.tables import BagFeature

LENGTHS_B = torch.tensor([2, 0, 1])


def test_rows_of_values() -> None:
    assert rows_of(Ragged(torch.tensor([5, 6, 7]), LENGTHS_B)).tolist() == [0, 0, 2]


def test_mean_divides_by_the_length() -> None:
    column = Ragged(torch.tensor([5, 6, 7]), LENGTHS_B)
    sum_BE = torch.tensor([[4.0, 2.0], [0.0, 0.0], [3.0, 3.0]])
    mean_BE = finish_bag(BagFeature("a", "a", "mean", False), column, sum_BE)
    assert mean_BE.tolist() == [[2.0, 1.0], [0.0, 0.0], [3.0, 3.0]]


def test_weighted_mean_divides_by_the_weights_and_is_zero_where_they_cancel() -> None:
    weights_N = torch.tensor([0.5, 1.5, 0.0])
    column = Ragged(torch.tensor([5, 6, 7]), LENGTHS_B, weights_N)
    sum_BE = torch.tensor([[4.0], [0.0], [3.0]]).requires_grad_()
    mean_BE = finish_bag(BagFeature("a", "a", "mean", True), column, sum_BE)
    assert mean_BE.tolist() == [[2.0], [0.0], [0.0]]
    mean_BE.sum().backward()
    assert sum_BE.grad is not None
    assert sum_BE.grad.tolist() == [[0.5], [0.0], [0.0]]


def test_sum_is_left_as_it_is() -> None:
    sum_BE = torch.tensor([[4.0], [0.0], [3.0]])
    column = Ragged(torch.tensor([5, 6, 7]), LENGTHS_B)
    assert finish_bag(BagFeature("a", "a", "sum", False), column, sum_BE) is sum_BE


def test_positions_of_a_sequence() -> None:
    index_LB, present_LB = positions(Ragged(torch.tensor([5, 6, 7]), LENGTHS_B), max_len=2)
    assert present_LB.tolist() == [[True, False, True], [True, False, False]]
    assert index_LB[present_LB].tolist() == [0, 2, 1]
