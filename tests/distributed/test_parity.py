"""Several processes see the batches, losses and metrics of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from recmtl.checkpoint import load_full
from recmtl.towers import chunked
from tests.distributed.conftest import chosen
from tests.distributed.log import PLANS, TABLES, TOWERS
from tests.distributed.pool import Pool

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

Train = Callable[..., dict[str, Any]]

SGD = (
    "train.optimizer=sgd",
    "train.lr=0.5",
    "train.embedding.optimizer=sgd",
    "train.embedding.lr=5.0",
)
"""Differences of gradients show as what they are."""
OPTIONS = {
    "plain SGD": SGD,
    "l2, clipped": (*SGD, "train.embedding.l2=0.01", "train.clip=0.1"),
    "prior": (*SGD, "train.embedding.prior=10"),
    "each task by its own rows": (*SGD, "train.normalize=observed"),
    "adagrad, decay": ("train.embedding.optimizer=adagrad", "train.weight_decay=0.01"),
}
CASES = [
    *((tower, "mixed", 2) for tower in TOWERS),
    *(("mmoe", plan, world_size) for plan in ("table_wise", "row_wise") for world_size in (2, 4)),
    ("mmoe", "mixed", 4),
]


@pytest.mark.parametrize(("tower", "plan", "world_size"), CASES)
def test_losses_and_metrics_are_those_of_one_process(
    tower: str, plan: str, world_size: int, train: Train
) -> None:
    one, several = train(1, tower, plan), train(world_size, tower, plan)
    require_equal(one, several)
    assert all(other["metrics"] == several["metrics"] for other in several["ranks"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_so_they_are_with_other_options_pitfall_T20(options: tuple[str, ...], train: Train) -> None:
    one, two = train(1, "ple", "mixed", *options), train(2, "ple", "mixed", *options)
    require_equal(one, two)
    if options[0] == SGD[0]:  # Adam turns noise around a gradient of zero into whole steps
        alone, together = (load_full(Path(run["folder"]) / "end") for run in (one, two))
        assert alone.keys() == together.keys()
        for key, expected in alone.items():
            assert_close(together[key], expected, rtol=1e-4, atol=1e-6, msg=lambda t, k=key: k + t)


def test_so_they_are_where_experts_run_by_hand(train: Train) -> None:
    wide = "tower={kind: mmoe, num_experts: 8, expert_widths: [4096, 4], head_widths: [2]}"
    assert chunked._CHUNK_FLOATS <= 32 * 8 * 4096  # rows of a process, experts, width
    options = (wide, "train.optimizer=sgd", "train.lr=0.01")
    require_equal(train(1, "mmoe", "mixed", *options), train(2, "mmoe", "mixed", *options))


def require_equal(one: dict[str, Any], several: dict[str, Any]) -> None:
    assert several["batches"] == one["batches"]
    assert several["losses"][:20] == pytest.approx(one["losses"][:20], abs=1e-6, rel=0)
    assert several["metrics"].keys() == one["metrics"].keys()
    assert several["metrics"] == pytest.approx(one["metrics"], abs=1e-4, rel=0)


def test_each_row_is_read_once_an_epoch_at_every_world_size_pitfall_T39(
    pool: Pool, log: dict[str, str]
) -> None:
    found = []
    for memory in ("1GiB", "160KiB"):
        options = [f"data.memory={memory}", "train.epochs=2", "train.batch_size=256"]
        given = [*chosen("shared_bottom", "table_wise"), *options]
        runs = [pool.run(n, "train", **log, overrides=given)[0] for n in (1, 2, 4)]
        assert runs[0]["rows"] == sorted([*range(1700), *range(1700)])
        assert runs[0]["batches"] == runs[1]["batches"] == runs[2]["batches"]
        found += runs[0]["batches"]
    assert len(set(found)) == 4 * 7  # other batches in each epoch, and from pools that are small


@pytest.mark.parametrize("plan", PLANS)
def test_the_plan_names_every_table_and_every_rank(plan: str, train: Train) -> None:
    for world_size in (2, 4):
        words = train(world_size, "mmoe", plan)["plan"]
        lines = {line.split()[0]: line for line in words.splitlines() if line}
        assert set(TABLES) < lines.keys()
        for table, kind in PLANS[plan].items():
            assert kind in lines[table]
        for rank in range(world_size):
            assert f"\nrank {rank} holds" in words
