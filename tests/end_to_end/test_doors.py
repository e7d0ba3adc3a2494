"""Three doors, one core: the command line, Python and a Lightning script give equal scores."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import polars
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from recmtl import (
    BatchScorer,
    ClickLogDataModule,
    Encoders,
    MultiTaskModule,
    TorchRecStrategy,
    api,
    checkpoint,
    load_spec,
    save_run,
)
from recmtl.data import open_log
from recmtl.errors import SpecError
from recmtl.run import Run
from recmtl.training.loaders import ValidLoader

OVERRIDES = (
    "tower=ple",
    "tower.num_levels=2",
    "tower.expert_widths=[16, 8]",
    "tower.head_widths=[8]",
    "train.batch_size=512",
    "train.epochs=1",
)


@pytest.fixture(scope="module")
def by_python(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("python") / "run"
    api.train(funnel / "spec.yaml", out=out, overrides=OVERRIDES)
    return out


@pytest.fixture(scope="module")
def by_lightning(
    funnel: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, polars.DataFrame]:
    """A run saved by a Lightning script, and the probabilities that the trainer itself predicts."""
    folder = tmp_path_factory.mktemp("lightning")
    config = load_spec(funnel / "spec.yaml", OVERRIDES)
    encoders = Encoders.fit(config, funnel)
    best = ModelCheckpoint(folder / "checkpoints", monitor="valid/ctr/auc", mode="max")
    trainer = pl.Trainer(
        strategy=TorchRecStrategy(),
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    module = MultiTaskModule(config, encoders)
    trainer.fit(module, ClickLogDataModule(config, encoders, data_dir=funnel))
    with pytest.raises(SpecError, match="exists"):
        save_run(trainer, folder)
    save_run(trainer, folder / "run", ckpt_path=best.best_model_path)
    assert Run(folder / "run").data_dir == funnel
    log = open_log(funnel / "test.parquet")
    loader = ValidLoader(log, encoders, batch_size=512)
    probs_BT = torch.cat(trainer.predict(module, loader))
    columns = [f"probs_{name}" for name in module.tasks.names]
    return folder / "run", polars.DataFrame(probs_BT.numpy(), schema=columns)


def difference(left: polars.DataFrame, right: polars.DataFrame) -> float:
    columns = [column for column in left.columns if column.startswith("probs_")]
    assert columns
    return max((left[c].cast(polars.Float64) - right[c]).abs().max() for c in columns)


def test_scores_of_all_doors_are_equal(
    funnel: Path,
    tmp_path: Path,
    by_python: Path,
    by_lightning: tuple[Path, polars.DataFrame],
) -> None:
    rows = polars.read_parquet(funnel / "test.parquet")
    in_memory = BatchScorer(by_python)(rows)
    api.score(by_python, funnel / "test.parquet", tmp_path / "scores")
    written = polars.read_parquet(tmp_path / "scores/part-00000.parquet")
    assert difference(in_memory, written) == 0.0
    run, predicted = by_lightning
    assert difference(in_memory, BatchScorer(run)(rows)) <= 1e-6
    assert difference(in_memory, predicted) <= 1e-6


def test_every_table_moved_and_padding_stayed_out(by_python: Path, funnel: Path) -> None:
    folder = checkpoint.best(by_python / "checkpoints")
    momentum = checkpoint.load_full(folder, "tables/")
    tables = {key.removesuffix("/weight") for key in momentum if key.endswith("/weight")}
    assert tables == set(load_spec(funnel / "spec.yaml").tables)
    for table in tables:
        states = [t for key, t in momentum.items() if key.startswith(f"{table}/optimizer/")]
        assert states
        assert all(bool((state > 0).any()) for state in states), table


def test_validation_metrics_of_training_are_those_of_eval(by_python: Path, funnel: Path) -> None:
    metrics = api.evaluate(by_python, funnel / "valid.parquet")["tasks"]
    summary = Run(by_python).summary["best"]
    for task, found in metrics.items():
        for name, value in found.items():
            assert summary[f"valid/{task}/{name}"] == pytest.approx(value, abs=1e-5), (task, name)
