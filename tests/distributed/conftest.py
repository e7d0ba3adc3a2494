"""One pool of four processes, and an uneven log, for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.log import PLANS, TOWERS, write_log
from tests.distributed.pool import Pool

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Four processes; a job uses one, two or all of them."""
    made = Pool(tmp_path_factory.mktemp("pool"), 4)
    yield made
    made.close()


@pytest.fixture(scope="package")
def log(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Arguments of a job: training files of 1000 and 700 rows, and encoders fitted on them."""
    return made_log(pool, tmp_path_factory.mktemp("uneven"))


@pytest.fixture(scope="package")
def train(pool: Pool, log: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train(world_size, tower, plan, *overrides)`: what the run came to; once for each of them.

    `folder` in the answer holds its checkpoints `at-10` and `end`.
    """
    done: dict[tuple[Any, ...], dict[str, Any]] = {}

    def trained(world_size: int, tower: str, plan: str, *overrides: str) -> dict[str, Any]:
        key = (world_size, tower, plan, *overrides)
        if key not in done:
            folder = str(tmp_path_factory.mktemp("trained"))
            given = [*chosen(tower, plan), *overrides]
            ranks = pool.run(
                world_size, "train", **log, overrides=given, folder=folder, save_at=[10]
            )
            done[key] = ranks[0] | {"folder": folder, "ranks": ranks}
        return done[key]

    return trained


def made_log(pool: Pool, folder: Path, **sizes: Any) -> dict[str, str]:
    """Where a new log and its encoders are."""
    found = {"log": str(write_log(folder / "log", **sizes)), "encoders": str(folder / "encoders")}
    pool.run(1, "fit_encoders", **found)
    return found


def chosen(tower: str, plan: str) -> list[str]:
    """Overrides that choose a tower and a plan."""
    sharding = ", ".join(f"{table}: {kind}" for table, kind in PLANS[plan].items())
    return [f"tower={TOWERS[tower]}", f"train.sharding={{{sharding}}}"]
