"""Lightning starts the second process itself. What several processes do is in tests/distributed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from recmtl.checkpoint import load_full

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

SGD = (
    "train.optimizer=sgd",
    "train.lr=0.5",
    "train.embedding.optimizer=sgd",
    "train.embedding.lr=5.0",
)
"""Differences of gradients show as what they are."""

SCRIPT = """
import json, os, sys
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from recmtl.config import load_spec
from recmtl.data import Encoders
from recmtl.training import ClickLogDataModule, MultiTaskModule, TorchRecStrategy

folder, log_dir, *overrides = sys.argv[1:]


class Clicks(pl.Callback):
    def __init__(self):
        self.counts = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.counts.append(int(batch.labels_BK[:, 0].nan_to_num().sum()))


config = load_spec(f"{log_dir}/spec.yaml", overrides)
encoders = Encoders.fit(config, log_dir)
clicks = Clicks()
trainer = pl.Trainer(
    strategy=TorchRecStrategy(), accelerator="cpu", devices=2, max_epochs=1, logger=False,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[clicks, ModelCheckpoint(folder, "end")], default_root_dir=folder,
)
module = MultiTaskModule(config, encoders)
trainer.fit(module, ClickLogDataModule(config, encoders, data_dir=log_dir))
with open(f"{folder}/rank-{trainer.global_rank}.json", "w") as file:
    found = trainer.callback_metrics.items()
    metrics = {key: float(value) for key, value in found if key.endswith(("auc", "/n"))}
    json.dump({"clicks": clicks.counts, "metrics": metrics, "plan": module.plan_text}, file)
"""


def test_a_script_with_two_devices_gives_the_one_process_result_pitfall_T20(
    make: Callable[..., Any], trainer: Callable[..., Any], log_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(log_dir), *SGD],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["clicks"] != ranks[1]["clicks"]
    assert "rank 1 holds" in ranks[0]["plan"]
    assert ranks[0]["metrics"] == ranks[1]["metrics"]

    alone = trainer(callbacks=[ModelCheckpoint(tmp_path, "alone")], enable_checkpointing=True)
    alone.fit(*make(*SGD))
    metrics = {key: float(alone.callback_metrics[key]) for key in ranks[0]["metrics"]}
    assert ranks[0]["metrics"] == pytest.approx(metrics, abs=1e-4, rel=0)
    one, two = load_full(tmp_path / "alone.ckpt"), load_full(tmp_path / "end.ckpt")
    assert one.keys() == two.keys()
    for key, expected in one.items():
        assert_close(
            two[key], expected, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
