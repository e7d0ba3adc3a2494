"""A small click log, its encoders, and trainers as users make them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import polars
import pytest
import torch.distributed as dist

from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders
from recmtl.training import ClickLogDataModule, MultiTaskModule, TorchRecStrategy

NUM_ROWS = 1_200
SPEC = """
name: small
data:
  {train: train.parquet, valid: valid.parquet, group_by: user, segments: [device], weight: weight}
features:
  - {name: user, type: sparse, vocab: {}, dim: 4}
  - {name: item, type: sparse, hash: 50, dim: 4}
  - {name: tags, type: sparse, hash: 20, dim: 4, pooling: mean}
  - {name: history, type: sequence, table: item, max_len: 3}
  - {name: price, type: dense}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
tower: {kind: mmoe, num_experts: 2, expert_widths: [8], head_widths: [4]}
train:
  {batch_size: 128, epochs: 2, lr: 0.01, seed: 3, embedding: {lr: 0.1}, monitor: ctr/auc,
   checkpoint_every_steps: 3}
"""


def click_log(num_rows: int, seed: int) -> polars.DataFrame:
    """Clicks depend on user and item, purchases on the item and the price."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 30, num_rows), rng.integers(0, 40, num_rows)
    price = rng.exponential(size=num_rows)
    click = rng.random(num_rows) < 1 / (1 + np.exp(-(1.5 * np.sin(user) + np.cos(item))))
    buy = click & (rng.random(num_rows) < 1 / (1 + np.exp(-(2 * np.sin(item) - price))))
    return polars.DataFrame(
        {
            "user": user,
            "item": item,
            "tags": [rng.integers(0, 99, rng.integers(0, 4)).tolist() for _ in range(num_rows)],
            "history": [rng.integers(0, 40, rng.integers(0, 6)).tolist() for _ in range(num_rows)],
            "price": price,
            "device": rng.choice(["ios", "android"], num_rows),
            "weight": rng.choice([0.5, 1.0, 2.0], num_rows),
            "click": click.astype(np.int8),
            "buy": buy.astype(np.int8),
        }
    )


@pytest.fixture(scope="session")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train.parquet`, `valid.parquet` and `spec.yaml`."""
    folder = tmp_path_factory.mktemp("log")
    click_log(NUM_ROWS, seed=0).write_parquet(folder / "train.parquet", row_group_size=300)
    click_log(500, seed=1).write_parquet(folder / "valid.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def config(log_dir: Path) -> RunConfig:
    return load_spec(log_dir / "spec.yaml")


@pytest.fixture(scope="session")
def encoders(config: RunConfig, log_dir: Path) -> Encoders:
    return Encoders.fit(config, log_dir)


@pytest.fixture
def make(config: RunConfig, encoders: Encoders, log_dir: Path) -> Callable[..., Any]:
    """`make(overrides...)` gives a fresh module and data module."""

    def made(*overrides: str) -> tuple[MultiTaskModule, ClickLogDataModule]:
        changed = load_spec(log_dir / "spec.yaml", overrides)
        return MultiTaskModule(changed, encoders), ClickLogDataModule(
            changed, encoders, data_dir=log_dir
        )

    return made


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """`trainer(max_epochs=2, ...)` as a user would make it, without decoration."""

    def made(**options: Any) -> pl.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        defaults = {
            "strategy": TorchRecStrategy(),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "enable_checkpointing": False,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(**{**quiet, **defaults, **options})

    return made


@pytest.fixture(autouse=True)
def nothing_is_left_of_a_trainer() -> Iterator[None]:
    """Lightning's own DDP launcher tells child processes their rank through the environment."""
    before = dict(os.environ)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
