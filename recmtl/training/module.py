"""MultiTaskModule: the model and its loss, as Lightning knows them.

Shape letters: B rows, H heads, K label columns, T tasks that carry loss.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from recmtl._cpu import multiplies_bf16
from recmtl.batch import Batch
from recmtl.checkpoint.ranks import from_all
from recmtl.config import ObjectiveConfig, RunConfig, TrainConfig
from recmtl.data import Encoders
from recmtl.data.codes import Aside
from recmtl.embeddings import layout
from recmtl.embeddings.prior import Prior
from recmtl.embeddings.sharded import ShardedLookup
from recmtl.errors import SpecError
from recmtl.models import build_net, build_tasks, reads_items
from recmtl.models.outcomes import Outcomes
from recmtl.spec import Spec
from recmtl.tasks import LossTerms
from recmtl.towers import TowerConfig
from recmtl.training.compiled import accelerate_loss, accelerate_tower, falls_back, problem_of
from recmtl.training.loaders import ValidLoader
from recmtl.training.loss_sums import LossSums, Position
from recmtl.training.optim import TablesAndDense, dense_optimizer
from recmtl.training.refusals import require_strategy, trainer_problems
from recmtl.training.reporting import JsonLinesLogger
from recmtl.training.strategy import TorchRecStrategy, bare_net, sharded_lookup
from recmtl.training.validation import OutcomeColumns, flat_metrics

__all__ = ["MultiTaskModule"]

_LOSSES = "loss_sums"
"""Where a checkpoint has the sums of losses that no line was made of yet."""
_SLOW_BF16 = (
    "train.precision: this CPU has no instructions for products of bf16 (AVX512-BF16 or AMX), so"
    " `bf16-mixed` takes longer than `32-true`."
)
_MAX_SEGMENTS = 100
"""A column of more values would drown the log of an epoch; `eval` and the report have them."""


class MultiTaskModule(pl.LightningModule):
    """A multi-task model to be trained with ``Trainer(strategy=TorchRecStrategy())``.

    It logs `train/loss`, `train/<task>/loss` and, after each validation, `valid/<task>/<metric>`.
    The net is built when the trainer asks for it, its tables without memory; the strategy gives
    them their place.

    Gradient clipping acts on dense parameters only: the gradients of tables are used up inside
    backward and are never seen whole.

    Attributes:
        net: from a batch to logits; None until the trainer is set up.
        tasks: loss, populations and probabilities.
        train_config: how it is trained.
        plan_text: which device holds which table, in words, once training is set up.
        notify: told in a sentence what is not as the config asks; default: Lightning's log.
    """

    net: nn.Module | None

    def __init__(
        self,
        config: RunConfig | Spec,
        encoders: Encoders,
        *,
        tower: TowerConfig | None = None,
        objective: ObjectiveConfig | None = None,
        train: TrainConfig | None = None,
    ) -> None:
        """Resolve the sections and check them; the net is built later.

        Args:
            config: a `RunConfig`, or a `Spec` together with `tower`.
            encoders: fitted on the training rows of the same spec.
            tower: replaces the section `tower`.
            objective: replaces the section `objective`.
            train: replaces the section `train`.

        Raises:
            SpecError: the sections contradict each other, or the encoders are of another spec.
        """
        super().__init__()
        self.config = _resolved(config, tower=tower, objective=objective, train=train)
        self.train_config = self.config.train
        if (
            encoders.spec.features != self.config.features
            or encoders.spec.labels != self.config.labels
        ):
            raise SpecError(
                "encoders: they were fitted for other features or labels than the config has. Fit"
                " them anew with `Encoders.fit(config, data_dir)`."
            )
        self.encoders = encoders
        objective_kind, normalize = self.config.objective.kind, self.train_config.normalize
        self.tasks = build_tasks(self.config, objective_kind, normalize, encoders)
        self.net = None
        self._prior: Prior | None = None
        self.plan_text = ""
        self._outcomes = OutcomeColumns(self.config.data.memory_bytes)
        self._losses = LossSums()
        self._logged: Position = None
        self._shown: Position = None
        self._resumed: list[dict[str, Any]] | None = None
        self._is_random = False
        self._loss_of = self.tasks.loss
        self.notify: Callable[[str], None] = rank_zero_info

    @property
    def device(self) -> torch.device:
        """Where the net is; Lightning knows it only of modules that it moves whole."""
        if self.net is None:
            return super().device
        return next(bare_net(self.net).tower.parameters()).device

    def setup(self, stage: str) -> None:
        """Refuse what would be silently wrong, before anything is built.

        Raises:
            SpecError: with every reason.
        """
        require_strategy(self.trainer, TorchRecStrategy)
        problems = trainer_problems(
            self.trainer,
            self.train_config,
            automatic=self.automatic_optimization,
            has_batch_norm=any(
                getattr(tower, "norm", None) == "batch"
                for tower in (self.config.tower, getattr(self.config.tower, "head", None))
            ),
        )
        outside = [name for name, _ in self.named_parameters() if not name.startswith("net.")]
        if outside:
            listed = ", ".join(f"`{name}`" for name in outside)
            problems.append(
                f"parameters outside `net` ({listed}) would not be averaged over processes. Put"
                " them into the tower."
            )
        if problems:
            raise SpecError.all_of(problems)

    def configure_model(self) -> None:
        """Build the net, its tables without memory; a second call does nothing."""
        if self.net is not None:
            return
        encoders, train = self.encoders, self.train_config
        tables = layout(self.config, encoders.tables, encoders.single, encoders.bags)
        network = self.config.network
        own = {table.name for table in tables.tables} & {s.name for s in tables.sequences}
        penalised = train.embedding.l2 > 0 or (train.embedding.prior > 0 and own)
        if not reads_items(self.config, network) and not penalised:
            tables = tables.with_means()  # penalties are on each item
        lookup = ShardedLookup(tables, train.embedding, seed=train.seed)
        self.net = build_net(self.config, network, encoders, lookup, seed=train.seed)
        if train.embedding.prior > 0 and tables.tables:
            self._prior = Prior(tables, {t.name: encoders.counts(t.name) for t in tables.tables})
        self._is_random = any(isinstance(m, _Dropout) and m.p > 0 for m in self.net.modules())

    def on_fit_start(self) -> None:
        """Let the tower and the loss run as `train.compile` says, where they can."""
        if self._prior is not None:
            self._prior.to(self.device)
        is_bf16 = self.trainer.precision == "bf16-mixed"
        if is_bf16 and self.device.type == "cpu" and not multiplies_bf16():
            self.notify(_SLOW_BF16)
        kind = self.train_config.compile
        if kind == "none":
            return
        assert self.net is not None
        tower = bare_net(self.net).tower
        problem = problem_of(kind, tower, self.device, ranks=_world_size())
        if problem is not None:
            self.notify(falls_back(kind, problem))
            return
        accelerate_tower(tower, kind, self.notify)
        self._loss_of = accelerate_loss(self.tasks, tower, kind, self.notify)

    def configure_optimizers(self) -> Any:
        """One optimizer with the groups `sparse` and `dense`; a subclass may add a schedule."""
        assert self.net is not None
        train, net = self.train_config, bare_net(self.net)
        names = net.dense_tensors()
        dense = {n: p for n, p in net.named_parameters() if n in names and p.requires_grad}
        return TablesAndDense(
            sharded_lookup(net).fused_optimizer,
            dense_optimizer(train.optimizer, dense, lr=train.lr, weight_decay=train.weight_decay),
            dense,
            lr=train.embedding.lr,
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip dense gradients to the Trainer's value or, without one, to the norm `train.clip`."""
        value = self.train_config.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(
            optimizer, gradient_clip_val=value, gradient_clip_algorithm=gradient_clip_algorithm
        )

    def forward(self, batch: Batch) -> Tensor:
        """What each task predicts, [B, O]: probabilities, or numbers in a label's unit.

        A task has one column, a multiclass task one for each class, in the order of the spec:
        `tasks.columns` says where each one's are.
        """
        assert self.net is not None
        return self.tasks.probs(self.net(batch))

    def loss_terms(self, batch: Batch) -> LossTerms:
        """This rank's part of the global batch's loss; the parts sum to the loss. Collective."""
        assert self.net is not None
        l2, squares_B = self.train_config.embedding.l2, None
        total_weight = _over_ranks(batch.weight_B.sum())
        decay = None
        if self._prior is not None:
            # The gradient will be averaged over ranks, as that of the loss is.
            scale = (
                self.train_config.embedding.prior * _world_size() / total_weight.clamp(min=1e-12)
            )
            decay = partial(self._prior, batch=batch, scale=scale)
        if l2 > 0:
            logits_BH, squares_B = self.net(batch, squares=True, decay=decay)
        else:
            logits_BH = self.net(batch, decay=decay)
        observed_weight_T = None
        if self.train_config.normalize == "observed":
            own_T = self.tasks.observed_weight(batch.labels_BK, batch.weight_B)
            observed_weight_T = _over_ranks(own_T)
        terms = self._loss_of(
            logits_BH,
            batch.labels_BK,
            batch.weight_B,
            total_weight=total_weight,
            observed_weight_T=observed_weight_T,
        )
        if squares_B is None:
            return terms
        penalty = 0.5 * l2 * (squares_B * batch.weight_B).sum() / total_weight.clamp(min=1e-12)
        return LossTerms(terms.total + penalty, terms.by_task)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; gradients will be averaged over ranks, so this part counts world size times."""
        with self._own_randomness():
            terms = self.loss_terms(batch)
        self._losses.add(terms)
        return terms.total * _world_size()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the mean losses since the last time: every `log_every_n_steps`, and at the end."""
        is_last = batch_idx + 1 == self.trainer.num_training_batches
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if not is_last and self.trainer.global_step % every != 0:
            return
        mean, self._logged = self._losses.since(self._logged)
        mean = _over_ranks(mean)
        if not bool(mean.isfinite().all()):
            raise SpecError(
                f"The loss is no longer a finite number at step {self.trainer.global_step:,}. Lower"
                " `train.lr`, `train.embedding.lr`, `l2` or `prior`, or set `train.clip`."
            )
        for key, value in zip(self._loss_keys, mean, strict=True):
            self.log(key, value, prog_bar=key == "train/loss", batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the next line of losses will be made of. Collective."""
        states = from_all(self._losses.state(self._logged))
        checkpoint[_LOSSES] = None if states[0] is None else states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what was kept, until training begins."""
        self._resumed = checkpoint.get(_LOSSES)

    def on_train_start(self) -> None:
        """Go on with the sums of a checkpoint, and log the line that was due when it was saved."""
        states, self._resumed = self._resumed, None
        if states is None:
            return
        trainer = self.trainer
        rank, ranks = trainer.global_rank, trainer.world_size
        self._logged = self._losses.restore(states, self.device, rank=rank, ranks=ranks)
        _, self._shown = self._losses.since(None)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if trainer.global_step % every or states[0]["steps"] == states[0]["read_steps"]:
            return  # Lightning logs a step after the checkpoint of that step is saved
        mean, self._logged = self._losses.since(self._logged)
        mean = _over_ranks(mean)
        line = dict(zip(self._loss_keys, mean.tolist(), strict=True))
        line["epoch"] = trainer.current_epoch
        for logger in trainer.loggers:
            if isinstance(logger, JsonLinesLogger):  # others were not cut to the checkpoint
                logger.log_metrics(line, step=trainer.global_step - 1)

    @property
    def _loss_keys(self) -> list[str]:
        return ["train/loss", *(f"train/{name}/loss" for name in self.tasks.trained)]

    def recent_losses(self) -> dict[str, float]:
        """Mean losses since the last call, estimated from this rank; waits for the device."""
        mean, self._shown = self._losses.since(self._shown)
        names = ("loss", *self.tasks.trained)
        return dict(zip(names, (mean * _world_size()).tolist(), strict=True))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep what the model says about the batch."""
        self._keep(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep what the model says about the batch."""
        self._keep(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """What each task predicts for this rank's rows, [B, O], as `forward` says it."""
        with torch.inference_mode(mode=False), torch.no_grad():
            predicted: Tensor = self(batch)
            return predicted

    def on_validation_epoch_start(self) -> None:
        """Begin without the rows of a pass that was interrupted."""
        self._outcomes.clear()

    def on_test_epoch_start(self) -> None:
        """Begin without the rows of a pass that was interrupted."""
        self._outcomes.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the exact metrics of all validation rows, as `valid/<task>/<metric>`."""
        self._log_metrics("valid", self.trainer.val_dataloaders)

    def on_test_epoch_end(self) -> None:
        """Log the exact metrics of all test rows, as `test/<task>/<metric>`."""
        self._log_metrics("test", self.trainer.test_dataloaders)

    def _keep(self, batch: Batch) -> None:
        assert self.net is not None
        # FBGEMM's lookup has no kernel under inference mode, which Lightning likes to turn on.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._outcomes.add(self.net(batch), batch)

    def _log_metrics(self, stage: str, loader: object) -> None:
        data, memory = self.config.data, self.config.data.memory_bytes
        aside = Aside(None, {})
        if self.trainer.is_global_zero and isinstance(loader, ValidLoader):
            aside = loader.aside(data.group_by, data.segments, memory=memory)
        tasks = copy.deepcopy(self.tasks).cpu()
        outcomes = Outcomes(tasks, aside, memory=memory)
        for logits_BH, labels_BK, weight_B, rows_B in self._outcomes.take():
            if stage != "test":  # validation rows were thinned as training rows were
                weight_B = tasks.weight_of_all(labels_BK, weight_B)
            outcomes.add(logits_BH, labels_BK, weight_B, rows_B)
        metrics: dict[str, float] = {}
        if self.trainer.is_global_zero:
            found = outcomes.metrics(most_values=_MAX_SEGMENTS)
            metrics = flat_metrics(found.table, stage)
        metrics = self.trainer.strategy.broadcast(metrics)
        for key, value in metrics.items():
            # Every rank has the same number; `max` leaves it as it is.
            exact = torch.tensor(value, dtype=torch.float64, device=self.device)
            self.log(key, exact, batch_size=1, reduce_fx="max", sync_dist=True)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout as a function of (seed, step, rank): a restart draws what it would have drawn."""
        if not self._is_random:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            step, rank = self.trainer.global_step, self.trainer.global_rank
            key = f"{self.train_config.seed}/{step}/{rank}".encode()
            torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()))
            yield


def _resolved(
    config: RunConfig | Spec,
    *,
    tower: TowerConfig | None,
    objective: ObjectiveConfig | None,
    train: TrainConfig | None,
) -> RunConfig:
    """The config with its sections replaced."""
    sections = {"tower": tower, "objective": objective, "train": train}
    given = {name: section for name, section in sections.items() if section is not None}
    if isinstance(config, RunConfig):
        return config.model_copy(update=given)
    if tower is None:
        raise SpecError(
            "tower: the spec has no such section. Pass `tower=`, such as `tower=MMoEConfig()`."
        )
    own = {name: getattr(config, name) for name in Spec.model_fields}
    return RunConfig.model_validate({**own, **given})


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks."""
    if _world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value
