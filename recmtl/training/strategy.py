"""TorchRecStrategy: Lightning with TorchRec's tables, and checkpoints without pickle."""

from __future__ import annotations

import atexit
import gc
import shutil
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # it is public

from recmtl.checkpoint import load_into, read_state, save
from recmtl.config import TrainConfig
from recmtl.embeddings.sharded import ShardedLookup, shard
from recmtl.errors import CheckpointError, SpecError
from recmtl.models import MultiTaskNet
from recmtl.training.optim import TablesAndDense
from recmtl.training.state import from_json, to_json
from recmtl.training.team import TeamEnvironment

__all__ = ["EARLIER_STEPS", "TorchRecStrategy", "bare_net"]

EARLIER_STEPS = "earlier_steps"
"""Where the state of a checkpoint says how many updates its optimizer saw before the run began."""
_TIMEOUT = timedelta(minutes=30)
_USED: weakref.WeakSet[TorchRecStrategy] = weakref.WeakSet()
"""What may hold a process group when the interpreter ends."""


class _Shardable(pl.LightningModule):
    """What is needed of `MultiTaskModule`."""

    net: Any
    train_config: TrainConfig
    plan_text: str


class TorchRecStrategy(DDPStrategy):
    """One process a device; tables are sharded over them, the dense part is replicated.

    Only `module.net` is wrapped. On CPU the processes talk over gloo, on CUDA over nccl; one
    process talks to nobody and opens no port. A checkpoint is a folder: tensors under logical names
    (`tables/<table>/weight`), which any number of processes can load, and the state of loops,
    callbacks and schedules as JSON.

    Attributes:
        plan_text: which device holds which table, in words, once training is set up.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(strategy=TorchRecStrategy(), accelerator="cpu", devices=1)
    """

    def __init__(
        self,
        *,
        find_unused_parameters: bool = False,
        cluster_environment: ClusterEnvironment | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = _TIMEOUT,
    ) -> None:
        """Say how processes find one another; the rest comes from the Trainer.

        Args:
            find_unused_parameters: True for a tower of which a step may leave a part unused
                (several processes only).
            cluster_environment: how processes find one another (default: what Lightning detects).
            process_group_backend: default gloo on CPU, nccl on CUDA.
            timeout: how long a process waits for the others.
        """
        super().__init__(
            cluster_environment=cluster_environment,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.plan_text = ""
        self._earlier_steps = 0  # that the state of the tables' optimizer has seen in other runs
        self._find_unused_parameters = find_unused_parameters

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Tables have memory only after setup."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizer states are loaded in place with the tables."""
        return False

    @property
    def _module(self) -> _Shardable:
        module = self.lightning_module
        if not hasattr(module, "train_config"):
            raise SpecError(
                f"TorchRecStrategy trains a `MultiTaskModule`, got a `{type(module).__name__}`."
                " Pass one, or a subclass of it."
            )
        return cast("_Shardable", module)

    @property
    def _is_alone(self) -> bool:
        return self.num_nodes * self.num_processes == 1

    def _configure_launcher(self) -> None:
        if not self._is_alone and not isinstance(self.cluster_environment, TeamEnvironment):
            super()._configure_launcher()

    def setup_distributed(self) -> None:
        """Join the other processes; a single one needs a group too, but no port."""
        _USED.add(self)
        atexit.register(_leave)
        if not self._is_alone or dist.is_initialized():
            super().setup_distributed()
            return
        self.set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        dist.init_process_group(
            self._process_group_backend,
            store=HashStore(),
            rank=0,
            world_size=1,
            timeout=self._timeout,
        )

    def setup(self, trainer: pl.Trainer) -> None:
        """Give the tables their place and memory, and make the optimizers."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        module = self._module
        for name, child in module.named_children():
            if name != "net":
                child.to(self.root_device)
        if not hasattr(module.net, "sharders"):
            config = module.train_config
            sharded = shard(
                module.net,
                self.root_device,
                batch_size=max(1, config.batch_size // self.world_size),
                sharding=config.sharding,
                local_world_size=self.num_processes,
                find_unused_parameters=self._find_unused_parameters,
            )
            module.net, module.plan_text = sharded.net, sharded.plan
        self.plan_text = module.plan_text
        self.model = module
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def model_to_device(self) -> None:
        """Nothing to do: `setup` puts each part where it belongs."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Move learning rates into the kernels, which read them at forward time, then step."""
        for optimizer in self.optimizers:
            _ours(optimizer).push_lr()
        return super().training_step(*args, **kwargs)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Empty: `save_checkpoint` takes the states from where they are."""
        return {}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Empty: `save_checkpoint` takes the weights from where they are."""
        return {}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Nothing to do: `load_checkpoint` loads in place."""

    def tensors(self) -> dict[str, Any]:
        """All tensors of a checkpoint by their logical names, live: writing to them counts.

        `tables/<table>/weight`, `tables/<table>/optimizer/<state>`, `net/<dense parameter>`, while
        fitting `optimizer/<dense parameter>/<state>`, and `module/<name>` for what a subclass of
        the module adds.
        """
        module = self._module
        net = bare_net(module.net)
        found = sharded_lookup(net).tensors()
        found |= {f"net/{name}": tensor for name, tensor in net.dense_tensors().items()}
        own = module._parameters | module._buffers
        for name, child in module.named_children():
            if name != "net":
                own |= {f"{name}.{key}": tensor for key, tensor in child.state_dict().items()}
        found |= {f"module/{name}": tensor for name, tensor in own.items() if tensor is not None}
        for optimizer in self.optimizers:
            states = _ours(optimizer).dense_state().items()
            found |= {f"optimizer/{name}": state for name, state in states}
        return found

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint folder. Collective.

        Raises:
            CheckpointError: a callback's state cannot be written as JSON.
        """
        folder = Path(self.broadcast(str(filepath)))
        complete = "optimizer_states" in checkpoint
        state: dict[str, Any] = {"complete": complete, "world_size": self.world_size}
        for key, value in checkpoint.items():
            if key in ("state_dict", "optimizer_states"):
                continue
            if key == "callbacks":
                state[key] = {
                    name: to_json(v, where=f"callback `{name}`") for name, v in value.items()
                }
            else:
                state[key] = to_json(value, where=f"`{key}` of the checkpoint")
        state["learning_rates"] = [
            {key: group[key] for key in ("name", "lr", "initial_lr") if key in group}
            for optimizer in self.optimizers
            for group in optimizer.param_groups
        ]
        if self._earlier_steps:
            state[EARLIER_STEPS] = self._earlier_steps
        tensors = self.tensors()
        save(folder, tensors if complete else _without_optimizers(tensors), state)
        self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint folder in place and give Lightning the rest. Collective.

        Raises:
            CheckpointError: it is corrupt, or of another model.
        """
        folder = Path(self.broadcast(str(checkpoint_path)))
        state = from_json(read_state(folder))
        fitting = self._module.trainer.state.fn == TrainerFn.FITTING
        if fitting and not state["complete"]:
            raise CheckpointError(
                f"{folder}: holds weights alone (`save_weights_only=True`), so training cannot go"
                " on from it. Pass a checkpoint with optimizer states to `ckpt_path`."
            )
        self._load_tensors(folder, state)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, saved in zip(groups, state["learning_rates"], strict=False):
            group.update(saved)
        return {**state, "state_dict": {}}

    def start_from(self, folder: Path) -> None:
        """Begin with the tensors of a checkpoint, and with nothing else of it. Collective.

        Raises:
            CheckpointError: it is corrupt, or of another model.
        """
        self._load_tensors(folder, read_state(folder))

    def _load_tensors(self, folder: Path, state: dict[str, Any]) -> None:
        tensors = self.tensors()
        load_into(folder, tensors if state["complete"] else _without_optimizers(tensors))
        self._earlier_steps = state.get(EARLIER_STEPS, 0)
        steps = state["global_step"] + self._earlier_steps
        sharded_lookup(self._module.net).set_step(steps)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a checkpoint folder."""
        if self.is_global_zero and Path(filepath).is_dir():
            shutil.rmtree(filepath)

    def release(self) -> None:
        """Let go of the net and the optimizers; nothing can be trained any more."""
        self._optimizers = []
        self.model = None
        if self._lightning_module is not None:
            self._lightning_module.net = None  # type: ignore[assignment]  # torch knows modules only

    def teardown(self) -> None:
        """Leave together: a process that goes early would break the others' last exchange.

        The base class would move the module to the CPU; tables stay where they are.
        """
        module = self.lightning_module
        trainer = None if module is None else module._trainer
        if trainer is not None and trainer.state.status != TrainerStatus.INTERRUPTED:
            self.barrier()
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def sharded_lookup(net: nn.Module) -> ShardedLookup:
    """The lookup of a net, wrapped or not."""
    lookup = bare_net(net).lookup
    assert isinstance(lookup, ShardedLookup)
    return lookup


def bare_net(net: Any) -> MultiTaskNet:
    """The net inside TorchRec's and DDP's wrappers."""
    while hasattr(net, "sharders") or isinstance(net, nn.parallel.DistributedDataParallel):
        net = net.module
    assert isinstance(net, MultiTaskNet)
    return net


def _without_optimizers(tensors: dict[str, Any]) -> dict[str, Any]:
    """What is left of the tensors in a checkpoint of weights alone."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith("optimizer/")
        and not (key.startswith("tables/") and key.split("/")[-2] == "optimizer")
    }


def _ours(optimizer: torch.optim.Optimizer) -> TablesAndDense:
    """The optimizer inside Lightning's wrapper."""
    inner = getattr(optimizer, "_optimizer", optimizer)
    if not isinstance(inner, TablesAndDense):
        raise SpecError(
            f"`configure_optimizers` returned a `{type(inner).__name__}`: with TorchRecStrategy it"
            " must be the `TablesAndDense` that `MultiTaskModule.configure_optimizers` makes; add a"
            " schedule to that one."
        )
    return inner


def _leave() -> None:
    """Leave the process group while there is an interpreter: its threads abort one that is ending.

    They end with the last object that holds the group, which the nets of a script do.
    """
    for strategy in _USED:
        strategy.release()
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
