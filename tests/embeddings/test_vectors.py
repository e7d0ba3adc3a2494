"""Vectors: blocks stay whole where their order is asked for; each feature is its own columns."""

from __future__ import annotations

import torch

from recmtl.embeddings.vectors import Vectors, side_by_side

NAMES = ("a", "b", "c", "d")
AB = torch.arange(10.0).view(2, 5)
C = torch.arange(12.0).view(2, 3, 2)
D = torch.arange(2.0).view(2, 1)


def vectors() -> Vectors:
    dims = {"a": 2, "b": 3, "c": 2, "d": 1}
    return Vectors({("d",): D, ("a", "b"): AB, ("c",): C}, names=NAMES, dims=dims)


def test_each_feature_in_the_order_of_the_spec() -> None:
    found = vectors()
    assert list(found) == list(NAMES)
    assert len(found) == 4
    expected = {"a": AB[:, :2], "b": AB[:, 2:], "c": C, "d": D}
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)


def test_neighbours_come_as_one_tensor_and_others_alone() -> None:
    found = vectors()
    assert [(n, p.shape) for n, p in side_by_side(found, NAMES)] == [
        ("a", (2, 5)),
        ("c", (2, 3, 2)),
        ("d", (2, 1)),
    ]
    assert next(iter(side_by_side(found, NAMES)))[1] is AB
    assert [n for n, _ in side_by_side(found, ("a", "d", "b"))] == ["a", "d", "b"]
    assert [n for n, _ in side_by_side(dict(found), ("a", "b"))] == ["a", "b"]
