"""fit: what `recmtl train` does once spec, data and encoders are known to be right."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from recmtl._files import write_text
from recmtl._progress import Progress, no_progress
from recmtl.checkpoint import read_index, read_state
from recmtl.config import RunConfig
from recmtl.data import Encoders
from recmtl.errors import CheckpointError, MissingExtraError
from recmtl.training.checkpoints import RunCheckpoints, tidy
from recmtl.training.datamodule import ClickLogDataModule
from recmtl.training.module import MultiTaskModule
from recmtl.training.monitor import Monitor
from recmtl.training.reporting import EpochBars, JsonLinesLogger
from recmtl.training.signals import StopRequest, TrainingInterrupted
from recmtl.training.strategy import TorchRecStrategy
from recmtl.training.team import ALONE, Team, TeamEnvironment, joined
from recmtl.training.validation import json_number
from recmtl.training.warm_start import WARM_START

__all__ = ["TrainResult", "fit", "require_loggers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What training came to."""

    run: Path
    """Folder of the run."""
    best: dict[str, float | None]
    """Metrics of the best checkpoint, as `valid/<task>/<metric>`; None where not defined."""
    rows_per_s: float
    """Training rows per second, validation left out; 0 where nothing was left to train."""
    epochs: int
    """Epochs that were trained, those before an interruption included."""


def fit(
    config: RunConfig,
    encoders: Encoders,
    *,
    data_dir: str | Path,
    folder: str | Path,
    progress: Progress = no_progress,
    resume: bool = True,
    team: Team = ALONE,
    notify: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train, keep the best checkpoint, and go on where an interrupted training of `folder` stopped.

    A run that was warm-started begins with the checkpoint that it was made with. Training leaves
    `checkpoints/`, `metrics.jsonl`, `plan.txt` and `logs/` in `folder`. A run that was interrupted
    at any moment and continued ends with the same metrics as one that was not: bit for bit in one
    process.

    Args:
        config: what to train.
        encoders: fitted on the training rows.
        data_dir: folder that the paths of the config are relative to.
        folder: folder of the run.
        progress: shows what is going on.
        resume: go on from the last checkpoint in `folder`, if there is one.
        team: the processes that train together; each of them calls this.
        notify: told, on the first process, in a sentence what is not as the config asks.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint was written first (a second signal
            does not wait for it).
        CheckpointError: the last checkpoint is corrupt, or of another model.
        MissingExtraError: a logger of `train.loggers` is not installed.
    """
    folder = Path(folder)
    last = read_index(folder / "checkpoints").last if resume else None
    start = _Start()
    if last is not None:
        path = folder / "checkpoints" / last
        state = read_state(path)
        try:
            if WARM_START in state:
                start = _Start(warm=path)
            else:
                written = state["callbacks"]["RunCheckpoints"]["metrics"]
                start = _Start(path, state["global_step"], written)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: its state lacks {error}; it was not written by `recmtl train`. Train"
                " again with `--overwrite`."
            ) from error
    if team.rank == 0:
        tidy(folder / "checkpoints")
    stop = StopRequest(is_led=team.is_led)
    try:
        with _quiet(), stop.on_signals(), joined(team):
            told = _nothing if notify is None or team.rank > 0 else notify
            return _fit(config, encoders, Path(data_dir), folder, progress, start, stop, team, told)
    except TrainingInterrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except SystemExit as error:  # Lightning's answer to a second Ctrl-C
        raise KeyboardInterrupt(f"stopped after step {start.step:,}") from error


class _Start(NamedTuple):
    """Where training goes on."""

    checkpoint: Path | None = None
    step: int = 0
    written: dict[str, Any] | None = None
    """How far `metrics.jsonl` was."""
    warm: Path | None = None
    """Checkpoint whose tensors training begins with, at step 0."""


def _fit(
    config: RunConfig,
    encoders: Encoders,
    data_dir: Path,
    folder: Path,
    progress: Progress,
    start: _Start,
    stop: StopRequest,
    team: Team,
    notify: Callable[[str], None],
) -> TrainResult:
    """What `fit` does; nothing that holds the process group outlives it."""
    monitor = (
        None if config.monitor is None else Monitor(f"valid/{config.monitor}", config.monitor_mode)
    )
    metrics = JsonLinesLogger(folder / "metrics.jsonl", written=start.written)
    checkpoints = RunCheckpoints(
        folder / "checkpoints",
        monitor=monitor,
        every_n_steps=config.train.checkpoint_every_steps,
        interrupted=lambda: stop.requested,
        metrics=metrics,
    )
    stopwatch = _Stopwatch(num_rows=encoders.num_rows, batch_size=config.train.batch_size)
    num_batches = -(-encoders.num_rows // config.train.batch_size)
    callbacks: list[Callback] = [
        stopwatch,
        EpochBars(progress, num_rows=encoders.num_rows, batch_size=config.train.batch_size),
        checkpoints,
        _PlanFile(folder / "plan.txt", team),
    ]
    if start.warm is not None:
        callbacks.append(_WarmStart(start.warm))
    if config.train.patience is not None and monitor is not None:
        callbacks.append(_Patience(monitor, config.train.patience))
    module = MultiTaskModule(config, encoders)
    module.notify = notify
    data = ClickLogDataModule(config, encoders, data_dir=data_dir)
    trainer = pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=team.local_world_size,
        num_nodes=team.world_size // team.local_world_size,
        strategy=TorchRecStrategy(cluster_environment=TeamEnvironment(team)),
        precision=config.train.precision,
        max_epochs=config.train.epochs,
        gradient_clip_val=config.train.clip,
        callbacks=callbacks,
        logger=[metrics, *_loggers(config, folder, start.step)],
        log_every_n_steps=max(1, min(100, num_batches // 20)),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # `stop` hears signals. Lightning's own handler would send a message from inside the signal,
    # which the other processes would take for the next gradient.
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint)
    except TrainingInterrupted as error:
        raise TrainingInterrupted(f"stopped at step {trainer.global_step:,}") from error
    return TrainResult(
        run=folder,
        best={
            key: json_number(key, value)
            for key, value in checkpoints.best_metrics.items()
            if key.split("/")[1] in module.tasks.names  # not those of segments
        },
        rows_per_s=stopwatch.rows_per_s,
        epochs=math.ceil(trainer.global_step / trainer.num_training_batches),
    )


def _nothing(*said: object) -> None:
    """Does nothing."""


class _Patience(EarlyStopping):
    """Lightning's early stopping, which a restart after its last word does not forget."""

    def __init__(self, monitor: Monitor, patience: int) -> None:
        super().__init__(
            monitor.key,
            mode=monitor.mode,
            patience=patience,
            check_finite=False,
            check_on_train_epoch_end=False,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _WarmStart(Callback):
    """Begins with the tensors of a checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer.strategy, TorchRecStrategy)
        trainer.strategy.start_from(self.checkpoint)


class _PlanFile(Callback):
    """Writes which device holds which table."""

    def __init__(self, file: Path, team: Team) -> None:
        self.file = file
        self.team = team

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            assert isinstance(pl_module, MultiTaskModule)
            text = f"{self.team}\n\n{pl_module.plan_text}"
            if pl_module.train_config.clip is not None:
                text += (
                    f"\nGradients are clipped to a norm of {pl_module.train_config.clip}, those of"
                    " the dense parameters alone: tables are updated inside backward.\n"
                )
            write_text(self.file, text)


class _Stopwatch(Callback):
    """Seconds and rows of training from the first read of the log on, validation left out."""

    def __init__(self, *, num_rows: int, batch_size: int) -> None:
        self.num_rows, self.batch_size = num_rows, batch_size
        self.seconds = 0.0
        self.rows = 0
        self._since: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._go_on()

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._go_on()  # after a validation within an epoch

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        before = batch_idx * self.batch_size
        self.rows += max(0, min(self.batch_size, self.num_rows - before))
        if batch_idx + 1 == trainer.num_training_batches:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._pause()

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        self._pause()

    def _go_on(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def _pause(self) -> None:
        if self._since is not None:
            self.seconds += time.monotonic() - self._since
            self._since = None

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def require_loggers(config: RunConfig) -> None:
    """Refuse loggers that are not installed, before anything is written.

    Raises:
        MissingExtraError: says what to install.
    """
    if "tensorboard" in config.train.loggers and not any(
        importlib.util.find_spec(package) for package in ("tensorboard", "tensorboardX")
    ):
        raise MissingExtraError(
            "train.loggers: `tensorboard` needs the package tensorboard, which is not installed."
            " Run `pip install tensorboard`, or leave it out."
        )


def _loggers(config: RunConfig, folder: Path, step: int) -> list[Logger]:
    loggers: list[Logger] = []
    for kind in config.train.loggers:
        if kind == "csv":
            loggers.append(CSVLogger(folder, name="logs"))
            continue
        # One folder over all restarts; what was logged after the step it goes on from is purged.
        loggers.append(TensorBoardLogger(folder, "tensorboard", "", purge_step=step or None))
    return loggers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners and advice about a Trainer that the user never made."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", module=r"torch\.|torchrec\.|fbgemm_gpu\.")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
