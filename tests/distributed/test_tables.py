"""Two gloo processes train, save and load as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recmtl import checkpoint
from recmtl.embeddings import PlainLookup
from recmtl.models import build_net
from tests.distributed.worker import TOWER, build, tensors, train
from tests.embeddings.world import ENCODERS, SPEC, random_rows, to_batch, world_layout

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint of one process that trains alone."""
    folder = tmp_path_factory.mktemp("one")
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    sharded, net = build("table_wise", 32)
    train(sharded.net, rank=0, world_size=1)
    checkpoint.save(folder / "trained", tensors(net), None)
    yield folder / "trained"
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=["table_wise", "row_wise"])
def two_processes(
    request: pytest.FixtureRequest, one_process: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What two processes leave, which also load and save what one process trained."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "given").symlink_to(one_process)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "tests.distributed.worker", str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", request.param],
            env=environment,
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return folder


def test_two_processes_train_what_one_trains(one_process: Path, two_processes: Path) -> None:
    one = checkpoint.load_full(one_process)
    two = checkpoint.load_full(two_processes / "trained")
    assert set(one) == set(two)
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=1e-6, msg=key)


def test_the_plan_spreads_tables_over_both(two_processes: Path) -> None:
    words = (two_processes / "plan.txt").read_text(encoding="utf-8")
    assert "rank:0/cpu" in words
    assert "rank:1/cpu" in words
    assert len(list((two_processes / "trained").glob("*.safetensors"))) == 2


def test_two_processes_load_what_one_saved_pitfall_T48(
    one_process: Path, two_processes: Path
) -> None:
    given = checkpoint.load_full(one_process)
    again = checkpoint.load_full(two_processes / "again")
    assert set(given) == set(again)
    assert all(torch.equal(given[key], again[key]) for key in given)


def test_one_process_loads_what_two_saved_pitfall_T48(
    one_process: Path, two_processes: Path
) -> None:
    folder = two_processes / "trained"
    whole = checkpoint.load_full(folder)
    sharded, net = build("table_wise", 32)
    found = tensors(net)
    checkpoint.load_into(folder, found)
    for key, tensor in found.items():
        mine = tensor.local_shards()[0].tensor if hasattr(tensor, "local_shards") else tensor
        assert torch.equal(mine, whole[key]), key
    tables = checkpoint.load_full(folder, "tables/", "/weight")
    plain = build_net(SPEC, TOWER, ENCODERS, PlainLookup(world_layout(), tables))
    plain.load_dense(checkpoint.load_full(folder, "net/"))
    batch = to_batch(random_rows(16, seed=9))
    torch.testing.assert_close(plain(batch), sharded.net(batch), rtol=0, atol=1e-6)


def test_a_failure_of_one_rank_is_the_failure_of_both(two_processes: Path) -> None:
    failures = [
        (two_processes / f"failures-{rank}.txt").read_text(encoding="utf-8").splitlines()
        for rank in range(2)
    ]
    assert failures[0] == failures[1]
    assert failures[0][0] == "rank 1"
    assert failures[0][1].startswith("The plans differ between ranks")
    assert failures[0][2].endswith("nowhere: is no folder, expected a checkpoint.")
