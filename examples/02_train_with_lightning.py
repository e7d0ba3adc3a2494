"""Train with a script of your own: recmtl's module, data and strategy under a plain Trainer.

python examples/02_train_with_lightning.py SPEC OUT
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is imported; see the README on FBGEMM and CPUs

import sys
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from recmtl import ClickLogDataModule, Encoders, MultiTaskModule, TorchRecStrategy, load_spec


def main(spec: Path, out: Path) -> None:
    """Fit, keep the best checkpoint by CTCVR's AUC, and validate it."""
    config = load_spec(spec, ["tower=mmoe", "train.batch_size=2048"])
    encoders = Encoders.fit(config, spec.parent)
    best = ModelCheckpoint(out / "checkpoints", monitor="valid/ctcvr/auc", mode="max")
    trainer = Trainer(
        strategy=TorchRecStrategy(),
        accelerator="auto",
        devices=1,
        max_epochs=2,
        logger=CSVLogger(out),
        callbacks=[best, EarlyStopping("valid/ctcvr/auc", mode="max", patience=1)],
    )
    module = MultiTaskModule(config, encoders)
    data = ClickLogDataModule(config, encoders, data_dir=spec.parent)
    trainer.fit(module, data)
    trainer.validate(module, data, ckpt_path=best.best_model_path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
