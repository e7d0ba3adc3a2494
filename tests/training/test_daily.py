"""Seven simulated days on which tastes turn: going on daily beats staying as on the first."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recmtl import api
from recmtl.run import Run
from recmtl.simulate import simulate

DAYS = 7
SMALL = [
    *("data.valid=null", "train.monitor=null", "wide=none", "train.batch_size=128"),
    *("tower={kind: shared_bottom, expert_widths: [16], head_widths: []}", "train.epochs=2"),
]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, and a folder for each day."""
    folder = tmp_path_factory.mktemp("days")
    simulate(folder, rows=2_000 * DAYS, seed=3, users=150, items=60, days=DAYS, drift=0.25)
    log = pl.concat(
        [pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "valid", "test")]
    )
    for number, frame in enumerate(log.partition_by("day", maintain_order=True)):
        (folder / f"{number}").mkdir()
        frame.write_parquet(folder / f"{number}/train.parquet")
    return folder


def test_warm_daily_training_beats_the_frozen_model(days: Path, tmp_path: Path) -> None:
    spec, runs = days / "spec.yaml", [tmp_path / f"{number}" for number in range(DAYS - 1)]
    for number, run in enumerate(runs):
        before = runs[number - 1] if number else None
        data = days / f"{number}"
        api.train(spec, data=data, out=run, overrides=SMALL, warm_start=before)
    later = pl.concat(
        [pl.read_parquet(days / f"{number}/train.parquet") for number in range(1, DAYS)]
    )
    names = later["day"].unique(maintain_order=True).cast(pl.String).to_list()
    frozen = api.evaluate(runs[0], later, by="day")["segments"]["day"]
    warm = {}
    for number, name in enumerate(names, start=1):
        by_day = api.evaluate(runs[number - 1], later, by="day")["segments"]["day"]
        warm[name] = by_day[name]  # the only day that follows its last one
    assert list(frozen) == names
    for task, margin in (("ctr", 0.08), ("ctcvr", 0.1)):
        gains = [warm[name][task]["auc"] - frozen[name][task]["auc"] for name in names]
        assert gains[0] == 0  # nothing was trained in between
        assert sum(gain > 0 for gain in gains) >= 4
        assert sum(gains[2:]) / 4 > margin
    losses = [warm[name]["ctr"]["logloss"] - frozen[name]["ctr"]["logloss"] for name in names]
    assert all(loss < 0 for loss in losses[2:])
    sizes = [len(pl.read_parquet(days / f"{number}/train.parquet")) for number in range(DAYS - 1)]
    encoders = Run(runs[-1]).encoders
    assert encoders.num_rows == sizes[-1]
    assert encoders.counts("user_id").sum() == sum(sizes)
