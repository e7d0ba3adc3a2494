"""Warm start: a new run that goes on from the model of a finished one, on other rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from recmtl.checkpoint import best, fingerprint, load_full, read_state, save, write_index
from recmtl.config import RunConfig
from recmtl.data import Encoders
from recmtl.embeddings.initial import fill_rows
from recmtl.errors import CheckpointError
from recmtl.run import Run
from recmtl.spec.changes import changed_keys, feature_changes, task_changes
from recmtl.training.strategy import EARLIER_STEPS

__all__ = ["WARM_START", "OptimizerState", "WarmStart"]

WARM_START = "warm_start"
"""Where the state of a checkpoint says that it is one to begin with, and not one to resume."""
OptimizerState = Literal["keep", "reset"]
_FIRST = "step-00000000"
_NETWORK = ("tower", "interaction", "wide", "sequence")
_FREE = "dropout"
"""The key of a network's section that no weight depends on."""


@dataclass(frozen=True)
class WarmStart:
    """The model that a new run goes on from.

    Attributes:
        run: the finished run; its best checkpoint, by which it scores, is taken.
        checkpoint: that checkpoint.
        optimizer_state: whether the state of the optimizers is taken too.
    """

    run: Run
    checkpoint: Path
    optimizer_state: OptimizerState

    @classmethod
    def open(
        cls, path: str | Path, config: RunConfig, optimizer_state: OptimizerState
    ) -> WarmStart:
        """Find out that a run can be carried over; its tensors are verified by `write`.

        Args:
            path: folder of the run.
            config: of the new run.
            optimizer_state: `keep` or `reset`.

        Raises:
            CheckpointError: it is not a run, not finished, or damaged; or what `config` describes
                is another model (with every difference).
        """
        run = Run(path)
        if not run.finished:
            raise CheckpointError(
                f"{path}: this run is not finished, and may still change. End its training by"
                " repeating its own command, or go on from another run."
            )
        problems = _changes(run.config, config, optimizer_state)
        checkpoint = best(run.checkpoints)
        if optimizer_state == "keep" and not read_state(checkpoint)["complete"]:
            problems.append(
                "checkpoint: holds weights alone, and no state of optimizers. Pass"
                " `--optimizer-state reset`."
            )
        if problems:
            raise CheckpointError(
                f"{path}: cannot be gone on from with this spec:\n"
                + "\n".join(f"- {problem}" for problem in problems)
                + "\nRepeat the spec that it was trained with, or train without `--warm-start`."
            )
        return cls(run, checkpoint, optimizer_state)

    @property
    def record(self) -> dict[str, str]:
        """What the new run remembers of it."""
        return {
            "run": str(self.run.path.absolute()),
            "model": fingerprint(self.checkpoint),
            "optimizer_state": self.optimizer_state,
        }

    def grown(self, encoders: Encoders) -> list[str]:
        """How many rows each table that grew had, and has, in words."""
        before = self.run.encoders.tables
        return [
            f"`{table}` from {before[table]:,} to {rows:,} rows"
            for table, rows in encoders.tables.items()
            if rows > before[table]
        ]

    def write(self, checkpoints: Path, encoders: Encoders, config: RunConfig) -> None:
        """Verify the run, and write the checkpoint that the new one begins with.

        Tables grow: rows of ids that are new start as those of a fresh run do, and with no state of
        the optimizer, those of ids too that were too rare before to have a row. (To start them at
        the row for unknown ids, by which they were scored before, was tried on simulated days: it
        was as good where that row was trained, and worse where it was not.)

        Args:
            checkpoints: folder of the new run's checkpoints.
            encoders: grown out of those of the run.
            config: of the new run, for the seed and scale of new rows.

        Raises:
            CheckpointError: a file of the run is missing or damaged.
        """
        self.run.verify()
        tensors = load_full(self.checkpoint)
        state = read_state(self.checkpoint)
        is_kept = self.optimizer_state == "keep"
        earlier_steps = state["global_step"] + state.get(EARLIER_STEPS, 0) if is_kept else 0
        kept = {key: tensor for key, tensor in tensors.items() if is_kept or not _is_state(key)}
        scale, seed = config.train.embedding.init_scale, config.train.seed
        for key in [key for key in kept if key.startswith("tables/")]:
            table, is_weight = _table_of(key)
            first, rows = len(kept[key]), encoders.tables[table]
            kept[key] = _grown(kept[key], rows)
            if is_weight:
                fill_rows(kept[key][first:], first, rows - first, table, seed, scale)
        begun = {"complete": is_kept, "global_step": 0, WARM_START: True}
        save(checkpoints / _FIRST, kept, begun | {EARLIER_STEPS: earlier_steps})
        write_index(checkpoints, best=None, last=_FIRST)


def _table_of(key: str) -> tuple[str, bool]:
    """The table of a tensor, and whether it is its weight, or else a state of its optimizer.

    Example:
        >>> _table_of("tables/a/b/weight"), _table_of("tables/user/optimizer/momentum1")
        (('a/b', True), ('user', False))
    """
    name = key.removeprefix("tables/")
    if name.endswith("/weight"):
        return name.removesuffix("/weight"), True
    return name.rpartition("/optimizer/")[0], False


def _is_state(key: str) -> bool:
    """Whether a tensor of a checkpoint belongs to an optimizer."""
    is_of_table = key.startswith("tables/") and not _table_of(key)[1]
    return key.startswith("optimizer/") or is_of_table


def _grown(tensor: Tensor, rows: int) -> Tensor:
    """A tensor of a table with further rows, which are zero."""
    if len(tensor) == rows:
        return tensor
    grown = torch.zeros(rows, *tensor.shape[1:], dtype=tensor.dtype)
    grown[: len(tensor)] = tensor
    return grown


def _changes(before: RunConfig, now: RunConfig, optimizer_state: OptimizerState) -> list[str]:
    """In what the model of `now` is another one than that of `before`, a sentence each."""
    found = [*feature_changes(before, now), *task_changes(before, now)]
    olds, news = before.model_dump(mode="json"), now.model_dump(mode="json")
    for name in _NETWORK:
        keys = changed_keys(olds[name], news[name])
        keys = [key for key in keys if key.partition(": ")[0].rpartition(".")[2] != _FREE]
        if keys:
            found.append(f"{name}: was trained with {'; '.join(keys)}.")
    if optimizer_state == "keep":
        pairs = {
            "train.optimizer": (before.train.optimizer, now.train.optimizer),
            "train.embedding.optimizer": (
                before.train.embedding.optimizer,
                now.train.embedding.optimizer,
            ),
        }
        found += [
            f"{key}: was `{old}`, and is `{new}`, which cannot go on with its state. Pass"
            " `--optimizer-state reset`."
            for key, (old, new) in pairs.items()
            if old != new
        ]
    return found
