"""ShardedLookup against loops in float64: values, fused updates, plans, initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recmtl.batch import Batch
from recmtl.embeddings import EmbeddingConfig, PlainLookup, layout
from recmtl.embeddings.initial import initial_rows
from recmtl.embeddings.sharded import ShardedLookup, shard
from recmtl.errors import SpecError
from recmtl.spec import Spec
from tests.embeddings.world import (
    DIMS,
    LOOKED_UP,
    ROWS,
    random_rows,
    tables_of,
    to_batch,
    whole,
    world_layout,
)
from tests.reference.embeddings import FusedReference, look_up, table_gradients

pytestmark = pytest.mark.usefixtures("gloo")

PLANS = ["table_wise", "row_wise"]
GOLDEN = [1.4399704933166504, 0.460970938205719, 0.19420461356639862]
"""First draws of seed 0, table `item_id`: a change is a change of every run's numbers."""


class Net(nn.Module):
    def __init__(self, lookup: nn.Module) -> None:
        super().__init__()
        self.lookup = lookup
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.lookup(batch)


def sharded(plan: str = "table_wise", seed: int = 0, **config: object) -> ShardedLookup:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(**config), seed=seed)
    shard(Net(lookup), "cpu", batch_size=16, sharding=dict.fromkeys(ROWS, plan))
    return lookup


def float64(tables: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: table.double().numpy() for name, table in tables.items()}


@pytest.mark.parametrize("plan", PLANS)
def test_values_match_the_loops(plan: str) -> None:
    lookup, rows = sharded(plan, init_scale=1.0), random_rows(16, seed=3)
    found = lookup(to_batch(rows))
    tables = float64(tables_of(whole(lookup.tensors())))
    assert list(found) == list(LOOKED_UP)
    for b, row in enumerate(rows):
        for name, expected in look_up(LOOKED_UP, tables, row).items():
            np.testing.assert_allclose(found[name][b].detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_fused_updates_match_a_dense_reference(plan: str, optimizer: str) -> None:
    lookup = sharded(plan, optimizer=optimizer, lr=0.1, eps=1e-6, init_scale=1.0)
    reference = FusedReference(
        optimizer, float64(tables_of(whole(lookup.tensors()))), lr=0.1, eps=1e-6
    )
    random = np.random.default_rng(0)
    for step in range(3):
        rows = random_rows(16, seed=step)
        upstream = [
            {
                name: random.normal(
                    size=(*([4] if f["kind"] == "sequence" else []), DIMS[f["table"]])
                )
                for name, f in LOOKED_UP.items()
            }
            for _ in rows
        ]
        found = lookup(to_batch(rows))
        loss = sum(
            (found[name] * torch.tensor(np.stack([u[name] for u in upstream]))).sum()
            for name in LOOKED_UP
        )
        loss.backward()
        reference.step(table_gradients(LOOKED_UP, reference.tables, rows, upstream))
    after = whole(lookup.tensors())
    for name in ROWS:
        np.testing.assert_allclose(
            after[f"tables/{name}/weight"], reference.tables[name], rtol=1e-4, atol=2e-5
        )
        if optimizer != "sgd":
            state = after[f"tables/{name}/optimizer/momentum1"]
            np.testing.assert_allclose(state, reference.state[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_every_table_moves(plan: str) -> None:
    lookup = sharded(plan)
    before = whole(lookup.tensors())
    sum(vector.sum() for vector in lookup(to_batch(random_rows(16, seed=1))).values()).backward()
    after = whole(lookup.tensors())
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == set(before)


def test_padding_and_weight_zero_train_no_row() -> None:
    lookup = sharded()
    before = tables_of(whole(lookup.tensors()))
    rows = random_rows(4, seed=0)
    for row in rows:
        row |= {"history": [], "gaps": [], "tags": [], "topics": [(2, 0.0)], "words": [(2, 0.0)]}
    found = lookup(to_batch(rows))
    sum(found[n].sum() for n in ("history", "gaps", "tags", "topics", "words")).backward()
    after = tables_of(whole(lookup.tensors()))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_out_of_vocabulary_row_is_zero_and_then_trained_pitfall_T38() -> None:
    lookup = sharded()
    batch = to_batch(random_rows(4, seed=0))
    batch.ids_FB.zero_()
    found = lookup(batch)
    assert not found["user"].any()
    found["user"].sum().backward()
    assert lookup(batch)["user"].ne(0).all()


def test_an_id_outside_its_table_is_an_error_and_trains_nothing() -> None:
    lookup = sharded()
    before = tables_of(whole(lookup.tensors()))
    batch = to_batch(random_rows(4, seed=0))
    batch.ids_FB[0, 1] = 10_000
    with pytest.raises(RuntimeError, match="idx < num_rows"):
        lookup(batch)
    after = tables_of(whole(lookup.tensors()))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_initial_weights_depend_on_seed_table_and_row_alone() -> None:
    table_wise, row_wise = sharded("table_wise", seed=5), sharded("row_wise", seed=5)
    first, second = whole(table_wise.tensors()), whole(row_wise.tensors())
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = whole(sharded(seed=6).tensors())
    assert not torch.equal(first["tables/user/weight"], other["tables/user/weight"])
    expected = initial_rows(5, "user", 0, 8)[: ROWS["user"]] * np.float32(0.01)
    expected[0] = 0
    np.testing.assert_array_equal(first["tables/user/weight"], expected)


def test_initial_weights_are_standard_normal_and_stay_the_same_for_ever() -> None:
    drawn = np.concatenate([initial_rows(0, "item_id", block, 16) for block in range(4)])
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / np.sqrt(drawn.size)
    assert not np.array_equal(drawn[:4096], drawn[4096:8192])
    np.testing.assert_allclose(drawn[0, :3], GOLDEN, rtol=1e-6)


def test_shared_tables_take_one_update_a_step() -> None:
    lookup = sharded(optimizer="rowwise_adagrad", lr=0.1, eps=1e-8)
    rows = random_rows(1, seed=0)
    rows[0] |= {"item.id": [(3, 1.0)], "history": [(3, 1.0), (3, 1.0)]}
    before = tables_of(whole(lookup.tensors()))["item.id"]
    found = lookup(to_batch(rows))
    (found["item.id"].sum() + found["history"].sum()).backward()
    after = whole(lookup.tensors())
    # The gradient 1 of three occurrences adds up to 3; the first Adagrad step then has length lr.
    assert after["tables/item.id/optimizer/momentum1"][3] == 9.0
    torch.testing.assert_close(after["tables/item.id/weight"][3], before[3] - 0.1)


def test_memory_estimate_is_what_the_tensors_take() -> None:
    for optimizer in ("rowwise_adagrad", "adagrad", "sgd"):
        tensors = whole(sharded(optimizer=optimizer).tensors())
        expected = sum(tensor.nbytes for tensor in tensors.values())
        assert sum(world_layout().table_bytes(optimizer).values()) == expected


def test_plain_lookup_agrees_for_every_kind_of_feature() -> None:
    lookup = sharded(init_scale=1.0)
    batch = to_batch(random_rows(32, seed=9))
    tables = tables_of(whole(lookup.tensors()))
    for stack_bytes in (0, 2**28):
        plain = PlainLookup(world_layout(), tables, stack_bytes=stack_bytes)
        with torch.inference_mode():
            found = plain(batch)
        assert list(found) == list(LOOKED_UP)
        for name, vectors in lookup(batch).items():
            torch.testing.assert_close(found[name], vectors.detach(), rtol=0, atol=1e-6)


def test_the_plan_is_told_in_words() -> None:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(), seed=0)
    words = shard(Net(lookup), "cpu", batch_size=16, sharding={"user": "row_wise"}).plan
    table = [line.split() for line in words.splitlines()]
    assert table[0] == ["table", "rows", "dim", "MB", "sharding", "kernel", "devices"]
    assert ["user", "11", "8", "0.0", "row_wise", "fused", "rank:0/cpu"] in table
    assert ["item.id", "17", "8", "0.0", "table_wise", "fused", "rank:0/cpu"] in table


def test_unknown_table_in_sharding_is_a_spec_error() -> None:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig())
    with pytest.raises(SpecError, match=r"there is no table `usr`.*Did you mean `user`\?"):
        shard(Net(lookup), "cpu", batch_size=16, sharding={"usr": "row_wise"})


def test_adam_on_cpu_is_a_spec_error() -> None:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(optimizer="adam"))
    with pytest.raises(SpecError, match=r"`adam` has no fused kernel on cpu.*`rowwise_adagrad`"):
        shard(Net(lookup), "cpu", batch_size=16)


def test_tables_that_do_not_fit_the_memory_are_a_spec_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recmtl.embeddings.plan.machine_memory_bytes", lambda: 2000)
    lookup = ShardedLookup(world_layout(), EmbeddingConfig())
    with pytest.raises(SpecError, match=r"largest is `item\.id` with 17 rows of 8\) do not fit"):
        shard(Net(lookup), "cpu", batch_size=16)


def test_learning_rate_of_the_kernels_can_be_changed() -> None:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(optimizer="sgd", lr=0.5))
    net = shard(Net(lookup), "cpu", batch_size=16).net
    for group in net.fused_optimizer.param_groups:
        group["lr"] = 0.25
    net.fused_optimizer.step()
    rows = random_rows(1, seed=0)
    before = tables_of(whole(lookup.tensors()))["user"]
    net(to_batch(rows))["user"].sum().backward()
    after = tables_of(whole(lookup.tensors()))["user"]
    index = rows[0]["user"][0][0]
    torch.testing.assert_close(after[index], before[index] - 0.25)


@pytest.mark.parametrize("plan", PLANS)
def test_direct_and_exchanged_lookups_agree_bit_for_bit(plan: str) -> None:
    lookup, batch = sharded(plan, init_scale=1.0), to_batch(random_rows(32, seed=4))
    direct = lookup(batch)
    lookup._direct = None
    for name, vectors in lookup(batch).items():
        assert torch.equal(direct[name], vectors)


def test_means_of_sequences_and_their_updates_equal_those_of_items_apart() -> None:
    apart = sharded(init_scale=1.0, lr=0.1)
    means = ShardedLookup(world_layout().with_means(), apart.config)
    shard(Net(means), "cpu", batch_size=16, sharding={})
    for step in range(3):
        batch = to_batch(random_rows(16, seed=step))
        found, expected = means(batch), apart(batch)
        assert list(found) == list(LOOKED_UP)
        losses = []
        for vectors in (found, expected):
            pooled = [
                v.sum(1) / batch.sequences[name].lengths_B.clamp(min=1).unsqueeze(1)
                if v.dim() == 3
                else v
                for name, v in vectors.items()
            ]
            losses.append(torch.cat(pooled, dim=1).sin().sum())
        torch.testing.assert_close(*losses)
        losses[0].backward()
        losses[1].backward()
    for key, tensor in whole(means.tensors()).items():
        torch.testing.assert_close(tensor, whole(apart.tensors())[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outside", [-1, 11])
def test_an_id_outside_its_table_is_found_where_each_feature_has_one_id(outside: int) -> None:
    spec = Spec.model_validate(
        {
            "name": "singles",
            "data": {"train": "train.parquet"},
            "features": (
                {"name": "user", "type": "sparse", "hash": 10, "dim": 8},
                {"name": "item", "type": "sparse", "hash": 16, "dim": 4},
            ),
            "tasks": ({"name": "ctr", "label": "click"},),
        }
    )
    tables = {"user": 11, "item": 17}
    lookup = ShardedLookup(layout(spec, tables, ["user", "item"], []), EmbeddingConfig())
    shard(Net(lookup), "cpu", batch_size=4)
    batch = replace(
        to_batch(random_rows(4, seed=0)), ids_FB=torch.tensor([[0, 10, 3, 3], [16, 0, 12, 11]])
    )
    good = lookup(batch)["user"].detach().clone()
    wrong_FB = batch.ids_FB.clone()
    wrong_FB[0, 2] = outside
    with pytest.raises(RuntimeError, match=r"idx < num_rows|out of bounds"):
        lookup(replace(batch, ids_FB=wrong_FB))
    assert torch.equal(lookup(batch)["user"], good)
