"""What a Trainer can be asked for that would be silently wrong with fused tables: refused."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)

from recmtl.config import TrainConfig
from recmtl.errors import SpecError

__all__ = ["require_strategy", "trainer_problems"]

_PRECISIONS = ("32-true", "bf16-mixed")


def trainer_problems(
    trainer: pl.Trainer, config: TrainConfig, *, automatic: bool, has_batch_norm: bool = False
) -> list[str]:
    """Everything about the Trainer that the tables cannot go along with, one sentence each.

    Args:
        trainer: as the user made it.
        config: how the model is to be trained.
        automatic: the module's `automatic_optimization`.
        has_batch_norm: whether the tower normalises over the rows of a batch.

    Example:
        >>> trainer = pl.Trainer(accelerator="cpu", accumulate_grad_batches=2, logger=False)
        >>> problems = trainer_problems(trainer, TrainConfig(), automatic=True)
        >>> any("accumulate_grad_batches" in problem for problem in problems)
        True
    """
    found = [
        _devices(trainer, config),
        _precision(trainer, config),
        _accumulation(trainer),
        _clipping(trainer, config),
    ]
    if not automatic:
        found.append(
            "automatic_optimization=False: tables are updated in each backward, so several backward"
            " passes a step would update them several times. Combine the losses and return one from"
            " `training_step`."
        )
    if has_batch_norm and trainer.world_size > 1:
        found.append(
            f"tower.norm: `batch` would take the mean of each of {trainer.world_size} processes'"
            " rows for itself. Use `norm: layer`, or one process."
        )
    if any(isinstance(callback, StochasticWeightAveraging) for callback in _callbacks(trainer)):
        found.append(
            "StochasticWeightAveraging: it would average the dense parameters and leave the tables"
            " out. Remove it."
        )
    return [problem for problem in found if problem is not None]


def require_strategy(trainer: pl.Trainer, strategy: type[pl.strategies.Strategy]) -> None:
    """Refuse any strategy but ours.

    Raises:
        SpecError: the Trainer has another strategy.
    """
    if not isinstance(trainer.strategy, strategy):
        raise SpecError(
            f"strategy: got `{type(trainer.strategy).__name__}`, which can neither give sharded"
            " tables their memory nor save them. Pass `Trainer(strategy=recmtl.TorchRecStrategy(),"
            " ...)`."
        )


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    found: list[Callback] = vars(trainer)["callbacks"]  # set where no type checker sees it
    return found


def _devices(trainer: pl.Trainer, config: TrainConfig) -> str | None:
    if config.devices is None or config.devices == trainer.world_size:
        return None
    return (
        f"devices: train.devices is {config.devices} and the Trainer has {trainer.world_size}. Pass"
        f" `Trainer(devices={config.devices}, ...)`, or leave `train.devices` out."
    )


def _precision(trainer: pl.Trainer, config: TrainConfig) -> str | None:
    precision = str(trainer.precision)
    if precision not in _PRECISIONS:
        reason = "tables are stored and updated in fp32"
        if precision.startswith("16"):
            reason = (
                "scaled fp16 gradients would reach the tables unscaled, and a step that is skipped"
                " would still move them"
            )
        return f"precision: must be `32-true` or `bf16-mixed`, got `{precision}`: {reason}."
    if config.precision != "32-true" and config.precision != precision:
        return (
            f"precision: train.precision is `{config.precision}` and the Trainer's is"
            f" `{precision}`. Pass `Trainer(precision={config.precision!r}, ...)`."
        )
    return None


def _accumulation(trainer: pl.Trainer) -> str | None:
    scheduled = any(
        isinstance(callback, GradientAccumulationScheduler) for callback in _callbacks(trainer)
    )
    if trainer.accumulate_grad_batches == 1 and not scheduled:
        return None
    return (
        "accumulate_grad_batches: must be 1, because tables are updated in each backward:"
        " micro-batches would move them several times a step. Raise `train.batch_size`."
    )


def _clipping(trainer: pl.Trainer, config: TrainConfig) -> str | None:
    value = trainer.gradient_clip_val
    if value is None or config.clip is None or value == config.clip:
        return None
    return (
        f"gradient_clip_val: the Trainer's is {value} and train.clip is {config.clip}. Leave one of"
        " them out."
    )
