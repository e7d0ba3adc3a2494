"""Tables on two processes are trained, saved and loaded as on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recmtl import checkpoint
from recmtl.embeddings import PlainLookup
from recmtl.models import build_net
from tests.distributed.jobs import TOWER
from tests.distributed.pool import Pool
from tests.embeddings.world import ENCODERS, SPEC, random_rows, to_batch, world_layout

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(scope="module")
def one_process(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one process that trains alone."""
    folder = tmp_path_factory.mktemp("one")
    pool.run(1, "train_tables", folder=str(folder), sharding="table_wise")
    return folder / "trained"


@pytest.fixture(scope="module", params=["table_wise", "row_wise"])
def two_processes(
    request: pytest.FixtureRequest,
    pool: Pool,
    one_process: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What two processes say, and the folder they leave; they also load what one has trained."""
    folder = tmp_path_factory.mktemp(request.param)
    given = {"sharding": request.param, "given": str(one_process)}
    ranks = pool.run(2, "train_tables", folder=str(folder), **given)
    return {"folder": folder, "ranks": ranks}


def test_two_processes_train_what_one_trains(
    one_process: Path, two_processes: dict[str, Any]
) -> None:
    one = checkpoint.load_full(one_process)
    two = checkpoint.load_full(two_processes["folder"] / "trained")
    assert set(one) == set(two)
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=1e-6, msg=key)


def test_every_rank_writes_its_part(two_processes: dict[str, Any]) -> None:
    assert len(list((two_processes["folder"] / "trained").glob("*.safetensors"))) == 2


def test_two_processes_load_what_one_saved_pitfall_T48(
    one_process: Path, two_processes: dict[str, Any]
) -> None:
    given = checkpoint.load_full(one_process)
    again = checkpoint.load_full(two_processes["folder"] / "again")
    assert set(given) == set(again)
    assert all(torch.equal(given[key], again[key]) for key in given)


def test_unsharded_tables_predict_what_two_processes_predict_pitfall_T48(
    pool: Pool, two_processes: dict[str, Any], tmp_path: Path
) -> None:
    folder = two_processes["folder"] / "trained"
    tables = checkpoint.load_full(folder, "tables/", "/weight")
    plain = build_net(SPEC, TOWER, ENCODERS, PlainLookup(world_layout(), tables))
    plain.load_dense(checkpoint.load_full(folder, "net/"))
    logits_BH = plain(to_batch(random_rows(16, seed=9)))
    for rank in two_processes["ranks"]:
        found_BH = torch.tensor(rank["logits"])
        torch.testing.assert_close(found_BH, logits_BH, rtol=0, atol=1e-6)
    (alone,) = pool.run(
        1, "train_tables", folder=str(tmp_path), sharding="table_wise", given=str(folder)
    )
    torch.testing.assert_close(torch.tensor(alone["logits"]), logits_BH, rtol=0, atol=1e-6)


def test_a_failure_of_one_rank_is_the_failure_of_both(two_processes: dict[str, Any]) -> None:
    first, second = (rank["failures"] for rank in two_processes["ranks"])
    assert first == second
    assert first[0] == "rank 1"
    assert first[1].startswith("The plans differ between ranks")
    assert first[2].endswith("nowhere: is no folder, expected a checkpoint.")


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_an_id_outside_its_table_fails_where_it_is(sharding: str, pool: Pool) -> None:
    # Tables have 11 and 7 rows. Row-wise over two ranks, id 11 falls behind the last row of rank 1;
    # larger ids and negative ones would wrap around to either rank.
    said = {
        outside: pool.run(2, "look_up_outside", sharding=sharding, outside=outside)
        for outside in (11, 13, 10_000, -1)
    }
    for outside, (first, second) in said.items():
        assert first == "nothing"
        assert second == (
            f"DataError: feature `user`: an id is outside its table of 11 rows: {outside}. Encode"
            f" rows with the run's own encoders.\nfeature `tags`: an id is outside its table of 7"
            f" rows: {outside}. Encode rows with the run's own encoders."
        )
