"""MultiTaskNet: the input vector, l2 on what a batch reads, and taking over weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recmtl.embeddings import EmbeddingConfig, PlainLookup
from recmtl.embeddings.sharded import ShardedLookup, shard
from recmtl.errors import CheckpointError
from recmtl.models import MultiTaskNet, build_net
from recmtl.towers import MMoEConfig
from tests.embeddings.world import (
    DIMS,
    ENCODERS,
    LOOKED_UP,
    ROWS,
    SPEC,
    random_rows,
    tables_of,
    to_batch,
    whole,
    world_layout,
)
from tests.reference.embeddings import look_up, table_gradients

TOWER = MMoEConfig(num_experts=2, expert_widths=(8,), head_widths=())


def random_tables() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(ROWS[name], DIMS[name], generator=generator) for name in ROWS}


def plain_net(seed: int = 0) -> MultiTaskNet:
    lookup = PlainLookup(world_layout(), random_tables())
    return build_net(SPEC, TOWER, ENCODERS, lookup, seed=seed).eval()


def test_input_vector_is_dense_then_pooled_in_the_order_of_the_spec() -> None:
    net, rows = plain_net(), random_rows(12, seed=3)
    x_BD = net.tower_input(to_batch(rows))
    tables = {name: table.double().numpy() for name, table in random_tables().items()}
    for b, row in enumerate(rows):
        vectors = look_up(LOOKED_UP, tables, row)
        for name in ("history", "gaps"):
            vectors[name] = vectors[name].sum(axis=0) / max(1, len(row[name]))
        expected = np.concatenate([[row["price"][0][1]], *vectors.values()])
        np.testing.assert_allclose(x_BD[b], expected, rtol=1e-5, atol=1e-6)


def test_squares_count_every_vector_a_row_reads() -> None:
    net, rows = plain_net(), random_rows(12, seed=4)
    logits_BH, squares_B = net(to_batch(rows), squares=True)
    torch.testing.assert_close(logits_BH, net(to_batch(rows)))
    tables = {name: table.double().numpy() for name, table in random_tables().items()}
    for b, row in enumerate(rows):
        expected = sum((v**2).sum() for v in look_up(LOOKED_UP, tables, row).values())
        np.testing.assert_allclose(squares_B[b], expected, rtol=1e-5)


@pytest.mark.usefixtures("gloo")
def test_l2_through_the_squares_is_the_closed_form() -> None:
    l2, lr, rows = 0.3, 0.5, random_rows(16, seed=5)
    config = EmbeddingConfig(optimizer="sgd", lr=lr, init_scale=1.0)
    lookup = ShardedLookup(world_layout(), config, seed=2)
    net = shard(build_net(SPEC, TOWER, ENCODERS, lookup), "cpu", batch_size=16).net
    before = tables_of(whole(lookup.tensors()))
    logits_BH, squares_B = net(to_batch(rows), squares=True)
    (0.0 * logits_BH.sum() + l2 / 2 * squares_B.sum()).backward()
    after = tables_of(whole(lookup.tensors()))
    tables = {name: table.double().numpy() for name, table in before.items()}
    upstream = [
        {name: l2 * v for name, v in look_up(LOOKED_UP, tables, row).items()} for row in rows
    ]
    for name, gradient in table_gradients(LOOKED_UP, tables, rows, upstream).items():
        np.testing.assert_allclose(after[name], tables[name] - lr * gradient, rtol=0, atol=3e-6)
    # By hand: a single-valued feature's row shrinks by lr * l2 for each time it is read.
    index = rows[0]["user"][0][0]
    times = sum(row["user"][0][0] == index for row in rows)
    torch.testing.assert_close(after["user"][index], (1 - lr * l2 * times) * before["user"][index])


@pytest.mark.usefixtures("gloo")
def test_sharded_and_plain_nets_agree_after_training() -> None:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(), seed=2)
    sharded_net = build_net(SPEC, TOWER, ENCODERS, lookup, seed=1)
    parallel = shard(sharded_net, "cpu", batch_size=16).net
    for seed in range(2):
        parallel(to_batch(random_rows(16, seed=seed))).square().mean().backward()
    tables = tables_of(whole(lookup.tensors()))
    plain = build_net(SPEC, TOWER, ENCODERS, PlainLookup(world_layout(), tables), seed=9)
    plain.load_dense(sharded_net.dense_tensors())
    batch = to_batch(random_rows(32, seed=7))
    torch.testing.assert_close(plain(batch), parallel(batch), rtol=0, atol=1e-6)


def test_two_nets_share_no_storage_pitfall_T10() -> None:
    first, second = plain_net(), plain_net()
    ours = {tensor.data_ptr() for tensor in first.dense_tensors().values()}
    assert not ours & {tensor.data_ptr() for tensor in second.dense_tensors().values()}


def test_dense_tensors_are_the_nets_own() -> None:
    net = plain_net()
    named = dict(net.named_parameters())
    assert set(net.dense_tensors()) == set(named)
    assert all(named[k].data_ptr() == t.data_ptr() for k, t in net.dense_tensors().items())


def test_takes_over_dense_weights() -> None:
    first, second, batch = plain_net(0), plain_net(1), to_batch(random_rows(8, seed=0))
    assert not torch.equal(first(batch), second(batch))
    second.load_dense({k: t.clone() for k, t in first.dense_tensors().items()})
    assert torch.equal(first(batch), second(batch))


def test_foreign_dense_weights_are_all_named() -> None:
    net = plain_net()
    tensors = dict(net.dense_tensors())
    name = next(iter(tensors))
    missing = list(tensors)[1]
    shape = list(tensors[name].shape)
    del tensors[missing]
    tensors |= {name: torch.zeros(1), "tower.other": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="which the net lacks") as caught:
        net.load_dense(tensors)
    assert str(caught.value).splitlines() == [
        f"The checkpoint lacks `{missing}`, which the net has.",
        "The checkpoint has `tower.other`, which the net lacks.",
        f"`{name}` has shape [1] in the checkpoint and {shape} in the net.",
    ]


def test_explains_with_the_gates_of_each_head() -> None:
    explained = plain_net().explain(to_batch(random_rows(8, seed=0)))
    assert {"gates/ctr", "gates/cvr", "gates/dwell"} <= set(explained)
    torch.testing.assert_close(explained["gates/ctr"].sum(dim=1), torch.ones(8))
