"""Two gloo processes do what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from recmtl.checkpoint import load_full

pytestmark = pytest.mark.multiprocess

SCRIPT = """
import json, os, sys
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from recmtl.config import load_spec
from recmtl.data import Encoders
from recmtl.training import ClickLogDataModule, MultiTaskModule, TorchRecStrategy

devices, folder, log_dir, resume, *overrides = sys.argv[1:]


class Clicks(pl.Callback):
    def __init__(self):
        self.counts = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.counts.append(int(batch.labels_BK[:, 0].nan_to_num().sum()))


config = load_spec(f"{log_dir}/spec.yaml", overrides)
encoders = Encoders.fit(config, log_dir)
clicks = Clicks()
keep = ModelCheckpoint(folder, "at-{step}", every_n_train_steps=3, save_top_k=-1)
end = ModelCheckpoint(folder, "end")
trainer = pl.Trainer(
    strategy=TorchRecStrategy(), accelerator="cpu", devices=int(devices), max_epochs=1,
    logger=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[clicks, keep, end], default_root_dir=folder,
)
module = MultiTaskModule(config, encoders)
data = ClickLogDataModule(config, encoders, data_dir=log_dir)
trainer.fit(module, data, ckpt_path=resume or None)
with open(f"{folder}/rank-{trainer.global_rank}.json", "w") as file:
    found = trainer.callback_metrics.items()
    metrics = {key: float(value) for key, value in found if key.endswith(("auc", "/n"))}
    json.dump({"clicks": clicks.counts, "metrics": metrics, "plan": module.plan_text}, file)
"""


def run(
    devices: int, folder: Path, log_dir: Path, *overrides: str, resume: Path | str = ""
) -> dict[str, torch.Tensor]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    arguments = [str(devices), str(folder), str(log_dir), str(resume), *overrides]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_full(folder / "end.ckpt")


def said(folder: Path, rank: int) -> dict[str, object]:
    return json.loads((folder / f"rank-{rank}.json").read_text())


OBSERVED = ("train.normalize=observed", "train.sharding={user: table_wise}")


@pytest.mark.parametrize("overrides", [(), pytest.param(OBSERVED, marks=pytest.mark.slow)])
def test_unequal_click_counts_give_the_one_process_result_pitfall_T20(
    overrides: tuple[str, ...], log_dir: Path, tmp_path: Path
) -> None:
    # Plain SGD: differences of gradients show as what they are.
    sgd = (
        "train.optimizer=sgd",
        "train.lr=0.5",
        "train.embedding.optimizer=sgd",
        "train.embedding.lr=5.0",
    )
    one = run(1, tmp_path / "one", log_dir, *sgd, *overrides)
    two = run(2, tmp_path / "two", log_dir, *sgd, *overrides)
    ranks = [said(tmp_path / "two", rank) for rank in (0, 1)]
    assert ranks[0]["clicks"] != ranks[1]["clicks"]
    assert "rank:1" in str(ranks[0]["plan"])
    assert one.keys() == two.keys()
    for key, expected in one.items():
        assert_close(
            two[key], expected, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert ranks[0]["metrics"] == pytest.approx(said(tmp_path / "one", 0)["metrics"], abs=1e-4)


def test_a_checkpoint_goes_on_with_another_number_of_processes(
    log_dir: Path, tmp_path: Path
) -> None:
    whole = run(1, tmp_path / "whole", log_dir)
    two = run(2, tmp_path / "two", log_dir, resume=tmp_path / "whole" / "at-step=3.ckpt")
    back = run(1, tmp_path / "back", log_dir, resume=tmp_path / "two" / "at-step=6.ckpt")
    for found in (two, back):
        assert found.keys() == whole.keys()
        for key, expected in whole.items():
            assert_close(
                found[key],
                expected,
                rtol=1e-3,
                atol=1e-5,
                msg=lambda text, key=key: f"{key}: {text}",
            )
