"""The prior's decay against plain loops over rows, features and items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from recmtl.embeddings.bags import BagOrder, Key
from recmtl.embeddings.prior import Prior
from recmtl.embeddings.vectors import Vectors
from tests.embeddings.world import DIMS, LOOKED_UP, ROWS, random_rows, to_batch, world_layout

COUNTS = {table: np.arange(rows) * 3 for table, rows in ROWS.items()}
"""Row 0 was never seen."""


@pytest.mark.parametrize("with_means", [False, True])
@pytest.mark.parametrize("is_one_block", [False, True])
def test_decay_equals_plain_loops(with_means: bool, is_one_block: bool) -> None:
    rows = random_rows(20, seed=1)
    batch, layout = to_batch(rows), world_layout()
    batch = replace(batch, weight_B=torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(5))
    if with_means:
        layout = layout.with_means()
    generator = torch.Generator().manual_seed(0)
    blocks: dict[tuple[str, ...], Tensor] = {}
    for name in layout.features:
        length = [s.max_len for s in layout.sequences if s.name == name]
        shape = (len(rows), *length, layout.dims[name])
        blocks[(name,)] = torch.randn(shape, generator=generator)
    if is_one_block:  # of two widths
        pair = ("item.id", "type")
        blocks[pair] = torch.cat([blocks.pop((name,)) for name in pair], dim=1)
    leaves = {names: block.requires_grad_() for names, block in blocks.items()}
    scale = torch.tensor(0.7)
    scale_B = 0.7 * (batch.weight_B > 0)
    vectors = Vectors(leaves, names=layout.features, dims=layout.dims)
    decaying = Prior(layout, COUNTS)(vectors, batch, scale)
    assert all(torch.equal(decaying[name], vectors[name]) for name in layout.features)
    weights = {name: torch.randn(vectors[name].shape, generator=generator) for name in vectors}
    sum((decaying[name] * weights[name]).sum() for name in vectors).backward()  # type: ignore[union-attr]
    gradients = Vectors(
        {names: leaf.grad for names, leaf in leaves.items() if leaf.grad is not None},
        names=layout.features,
        dims=layout.dims,
    )
    for name in layout.features:
        expected = weights[name] + loops(name, rows, vectors[name].detach(), scale_B)
        assert_close(gradients[name], expected, rtol=1e-6, atol=1e-6)


def loops(
    name: str, rows: list[dict[str, list[tuple[int, float]]]], vectors: Tensor, scale_B: Tensor
) -> Tensor:
    """The decay of one feature, number by number."""
    table, kind = str(LOOKED_UP[name]["table"]), LOOKED_UP[name]["kind"]
    found = torch.zeros_like(vectors)
    is_pooled = kind == "bag" or (kind == "sequence" and vectors.dim() == 2)
    if table != name or is_pooled:  # its owner decays; items are not seen one by one
        return found
    for b, row in enumerate(rows):
        for position, (i, _) in enumerate(row[name]):
            place = (b, position) if vectors.dim() == 3 else (b,)
            found[place] = vectors[place] / max(int(COUNTS[table][i]), 1) * scale_B[b]
    return found


def test_over_all_rows_each_vector_decays_once() -> None:
    """However often it is looked up: one over its count, as often as it is counted."""
    rows = random_rows(300, seed=2)
    batch, layout = to_batch(rows), world_layout()
    place = {feature.name: i for i, feature in enumerate(layout.single)}
    counts: dict[str, NDArray[Any]] = COUNTS | {
        name: np.bincount(batch.ids_FB[i].numpy(), minlength=ROWS[name])
        for name, i in place.items()
    }
    table_RE = torch.randn(ROWS["user"], DIMS["user"], dtype=torch.float32, requires_grad=True)
    looked_up = {(name,): torch.zeros(300, DIMS[name]) for name in place}
    looked_up[("user",)] = table_RE[batch.ids_FB[place["user"]]]
    vectors = Vectors(looked_up, names=tuple(place), dims=DIMS)
    decaying = Prior(layout, counts)(vectors, batch, torch.tensor(7.0))
    (0.0 * decaying["user"].sum()).backward()  # type: ignore[no-untyped-call]
    seen_R1 = torch.from_numpy(counts["user"] > 0).unsqueeze(1)
    assert seen_R1.sum() > 5
    assert table_RE.grad is not None
    assert_close(table_RE.grad, 7.0 * table_RE.detach() * seen_R1)


def test_decay_reaches_tables_through_the_kernels_order() -> None:
    """Keys in another order than the spec's, as kernels have them."""
    rows = random_rows(9, seed=3)
    batch, layout = to_batch(rows), world_layout().with_means()
    names = [*reversed(layout.features)]
    order = BagOrder(layout, [Key(name) for name in names])
    sums_BC = torch.randn(9, sum(layout.dims[name] for name in names), requires_grad=True)
    vectors = Vectors(order.vectors(sums_BC, batch), names=layout.features, dims=layout.dims)
    decaying = Prior(layout, COUNTS)(vectors, batch, torch.tensor(1.0))
    (0.0 * decaying["user"].sum()).backward()  # type: ignore[no-untyped-call]
    assert sums_BC.grad is not None
    start = sum(layout.dims[name] for name in names[: names.index("user")])
    at = slice(start, start + layout.dims["user"])
    expected = loops("user", rows, sums_BC.detach()[:, at], torch.ones(9))
    assert expected.abs().max() > 0.01
    assert_close(sums_BC.grad[:, at], expected)
