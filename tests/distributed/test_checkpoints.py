"""A checkpoint of any number of processes is read, and trained on, by any other number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmtl.checkpoint import load_full
from tests.distributed.conftest import chosen
from tests.distributed.pool import Pool

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

Train = Callable[..., dict[str, Any]]
CHOSEN = ("mmoe", "mixed")


def predicted(
    pool: Pool, log: dict[str, str], world_size: int, checkpoint: str, folder: Path
) -> np.ndarray:
    """What `world_size` ranks predict for the validation rows; 0 stands for unsharded tables."""
    folder.mkdir()
    job = "predict" if world_size else "predict_plainly"
    arguments = {"resume": checkpoint, "path": "valid.parquet", "folder": str(folder)}
    pool.run(world_size or 1, job, **log, overrides=chosen(*CHOSEN), **arguments)
    return np.load(folder / "predicted.npy")


@pytest.mark.parametrize(("saved", "moment"), [(1, "at-10"), (2, "end"), (4, "at-10")])
def test_every_world_size_predicts_alike_pitfall_T48(
    saved: int, moment: str, train: Train, pool: Pool, log: dict[str, str], tmp_path: Path
) -> None:
    checkpoint = f"{train(saved, *CHOSEN)['folder']}/{moment}"
    whole = load_full(Path(checkpoint))
    expected_BT = predicted(pool, log, 0, checkpoint, tmp_path / "plain")
    assert expected_BT.shape == (700, 7)
    assert expected_BT[:, :-1].std(axis=0).min() > 0.001
    for loaded in (1, 2, 4):
        folder = tmp_path / f"by-{loaded}"
        found_BT = predicted(pool, log, loaded, checkpoint, folder)
        np.testing.assert_allclose(found_BT[:, :-1], expected_BT[:, :-1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found_BT[:, -1], expected_BT[:, -1], rtol=1e-6)
        again = load_full(folder / "again")
        assert [key for key in again if not torch.equal(again[key], whole[key])] == []
        assert set(whole) - set(again) == {key for key in whole if "optimizer" in key}


@pytest.mark.parametrize(("saved", "loaded"), [(1, 4), (2, 1), (4, 2)])
def test_training_goes_on_in_mid_epoch_with_other_processes_pitfall_T40(
    saved: int, loaded: int, train: Train, pool: Pool, log: dict[str, str]
) -> None:
    whole = train(1, *CHOSEN)
    resume = f"{train(saved, *CHOSEN)['folder']}/at-10"
    (rest, *_) = pool.run(loaded, "train", **log, overrides=chosen(*CHOSEN), resume=resume)
    assert rest["batches"] == whole["batches"][10:]
    assert rest["losses"] == pytest.approx(whole["losses"][10:], abs=1e-5, rel=0)
    valid = {key: value for key, value in whole["metrics"].items() if key.startswith("valid/")}
    assert {key: rest["metrics"][key] for key in valid} == pytest.approx(valid, abs=1e-4, rel=0)
