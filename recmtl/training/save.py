"""save_run: what a Trainer trained, as a run folder that scoring reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning.pytorch as pl

from recmtl._files import atomic_folder
from recmtl.checkpoint import verify, write_index
from recmtl.errors import SpecError
from recmtl.run import Run
from recmtl.training.datamodule import ClickLogDataModule
from recmtl.training.module import MultiTaskModule

__all__ = ["save_run"]


def save_run(
    trainer: pl.Trainer, folder: str | Path, *, ckpt_path: str | Path | None = None
) -> Run:
    """Write what `trainer` trained as a run: the same folder that `recmtl train` leaves.

    `recmtl eval`, `recmtl score` and `BatchScorer` take it. Collective: every process calls it.

    Args:
        trainer: a Trainer whose module is a `MultiTaskModule`, after `fit`.
        folder: the run folder; it must not exist yet.
        ckpt_path: a checkpoint folder of this training, such as `ModelCheckpoint.best_model_path`
            (default: the weights as they are now).

    Raises:
        SpecError: the module is not a `MultiTaskModule`, or `folder` exists.
        CheckpointError: `ckpt_path` is not a whole checkpoint.

    Example:
        ``save_run(trainer, "runs/a", ckpt_path=best.best_model_path)``
    """
    folder, module = Path(folder), trainer.lightning_module
    if not isinstance(module, MultiTaskModule):
        raise SpecError(f"trainer: its module is a {type(module).__name__}, not a MultiTaskModule.")
    if folder.exists():
        raise SpecError(f"{folder}: exists. Choose another folder; nothing was changed.")
    if ckpt_path is not None:
        verify(Path(ckpt_path))
    trainer.strategy.barrier()
    checkpoint = folder / "checkpoints" / f"step-{trainer.global_step:08d}"
    if trainer.is_global_zero:
        data = _data(trainer)
        Run.create(
            folder,
            module.config,
            module.encoders,
            data_fingerprint="" if data is None or data.splits is None else data.splits.fingerprint,
            data_dir=None if data is None else data.data_dir,
        )
        if ckpt_path is not None:
            with atomic_folder(checkpoint) as temporary:
                shutil.copytree(ckpt_path, temporary, dirs_exist_ok=True)
    trainer.strategy.barrier()
    if ckpt_path is None:
        trainer.save_checkpoint(checkpoint)
    run = Run(folder)
    if trainer.is_global_zero:
        write_index(run.checkpoints, best=checkpoint.name, last=checkpoint.name)
        run.finish({"best": {}, "rows_per_s": 0.0, "epochs": trainer.current_epoch})
    trainer.strategy.barrier()
    return run


def _data(trainer: pl.Trainer) -> ClickLogDataModule | None:
    """The data, where recmtl read it."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, ClickLogDataModule) and data.splits is not None else None
