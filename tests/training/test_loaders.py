"""Positions of loaders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from recmtl.errors import CheckpointError
from recmtl.training.loaders import TrainLoader


class Counted:
    """Ten batches an epoch, each its own (epoch, number)."""

    num_batches = 10

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, int]]:
        yield from ((epoch, k) for k in range(start, self.num_batches))


def loader(epoch: int = 0) -> TrainLoader:
    return TrainLoader(Counted(), lambda: epoch)  # type: ignore[arg-type]  # stands for batches


def test_counts_what_was_given_out() -> None:
    train = loader(epoch=2)
    assert list(islice(train, 4)) == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert train.state_dict() == {"epoch": 2, "batch": 4, "num_batches": 10}


def test_goes_on_after_the_last_batch_that_was_given_out() -> None:
    train = loader(epoch=2)
    train.load_state_dict({"epoch": 2, "batch": 4, "num_batches": 10})
    assert train.state_dict()["batch"] == 4
    assert list(train) == [(2, k) for k in range(4, 10)]
    assert list(train) == [(2, k) for k in range(10)]


def test_a_position_at_the_end_of_an_epoch_does_not_empty_the_next() -> None:
    train = loader(epoch=3)
    train.load_state_dict({"epoch": 2, "batch": 10, "num_batches": 10})
    assert list(train) == [(3, k) for k in range(10)]


def test_the_epoch_is_asked_for_when_the_first_batch_is() -> None:
    epochs = [0]
    train = TrainLoader(Counted(), lambda: epochs[0])  # type: ignore[arg-type]  # stands for batches
    batches = iter(train)
    epochs[0] = 5
    assert next(batches) == (5, 0)


def test_a_position_of_other_data_is_refused() -> None:
    with pytest.raises(CheckpointError, match="made with 11 batches an epoch, now there are 10"):
        loader().load_state_dict({"epoch": 0, "batch": 4, "num_batches": 11})
