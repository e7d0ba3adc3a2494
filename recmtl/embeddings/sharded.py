"""ShardedLookup: ids -> vectors through one TorchRec collection, updated in backward.

Shape letters: B rows, F single-valued sparse features, K keys, N values, E embedding width, L
sequence length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor, nn

from recmtl import _torchrec
from recmtl.batch import Batch
from recmtl.embeddings.bags import BagOrder, Key
from recmtl.embeddings.config import EmbeddingConfig
from recmtl.embeddings.initial import fill_rows
from recmtl.embeddings.optim import fuse_optimizer, require_optimizer
from recmtl.embeddings.plan import Sharding, plan_in_words, plan_tables
from recmtl.embeddings.tables import Layout
from recmtl.embeddings.vectors import Vectors
from recmtl.errors import DataError

__all__ = ["Sharded", "ShardedLookup", "shard"]


class _Kernel(NamedTuple):
    """One table-batched kernel of this rank, and the order of its features."""

    op: Any
    order: BagOrder


class ShardedLookup(nn.Module):
    """One `EmbeddingBagCollection` for single ids, bags, and sequences as position features.

    It is built on the meta device; `shard` gives it memory. A sequence of up to L items is L
    features of its table with bags of at most one id, which on CPU is two to three times faster
    than an unpooled collection.
    """

    def __init__(self, layout: Layout, config: EmbeddingConfig, *, seed: int = 0) -> None:
        """Describe the collection; `shard` gives it memory.

        Args:
            layout: features and tables.
            config: optimizer and initial scale of the tables.
            seed: initial weights are a function of (seed, table, row) alone.
        """
        super().__init__()
        self.layout = layout
        self.config = config
        self.seed = seed
        # Inner names are free of what torch refuses in a module's name (dots, `type`, `keys`);
        # users see the tables' own.
        self.inner = {
            f"t{i}_{re.sub(r'[^0-9A-Za-z_]', '_', t.name)}": t for i, t in enumerate(layout.tables)
        }
        # A pooled feature is one key of the collection, a sequence one for each position.
        names = [*(f.name for f in layout.single), *(f.name for f in layout.bags)]
        keys_of = {name: {f"{i}": Key(name)} for i, name in enumerate(names)}
        for i, sequence in enumerate(layout.sequences, start=len(keys_of)):
            keys_of[sequence.name] = {
                f"{i}.{position}": Key(sequence.name, position)
                for position in range(sequence.max_len)
            }
        self._keys = {inner: key for keys in keys_of.values() for inner, key in keys.items()}
        self._dims = layout.dims
        self._given = BagOrder(layout, list(self._keys.values()))
        self._found: tuple[list[str], BagOrder] | None = None
        self._direct: list[_Kernel] | None = None
        self.collection = _torchrec.EmbeddingBagCollection(
            tables=[
                _torchrec.EmbeddingBagConfig(
                    name=inner,
                    num_embeddings=table.num_embeddings,
                    embedding_dim=table.embedding_dim,
                    feature_names=[key for feature in table.features for key in keys_of[feature]],
                    pooling=_torchrec.PoolingType.SUM,
                    init_fn=nn.init.zeros_,
                )
                for inner, table in self.inner.items()
            ],
            is_weighted=layout.is_weighted,
            device=torch.device("meta"),
        )
        fuse_optimizer(self.collection.parameters(), config)

    @property
    def fused_optimizer(self) -> Any | None:
        """The optimizer inside the kernels; None where all features are dense.

        TorchRec does not shard a collection without tables.
        """
        return self.collection.fused_optimizer if self.inner else None

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        """Vectors of every feature in the order of the spec: [B, E], a sequence [B, L, E]."""
        if not self.inner:
            return {}
        blocks = self._exchanged(batch) if self._direct is None else self._looked_up(batch)
        return Vectors(blocks, names=self.layout.features, dims=self._dims)

    def _looked_up(self, batch: Batch) -> dict[tuple[str, ...], Tensor]:
        """From this rank's own kernels, which hold all tables."""
        assert self._direct is not None
        blocks: dict[tuple[str, ...], Tensor] = {}
        for op, order in self._direct:
            values_N, lengths_KB, weights_N = order.bags(batch)
            if lengths_KB is None:
                offsets = torch.arange(len(values_N) + 1, device=values_N.device)
            else:
                offsets = nnf.pad(lengths_KB.cumsum(0), (1, 0))
            blocks |= order.vectors(op(values_N, offsets, weights_N), batch)
        return blocks

    def _exchanged(self, batch: Batch) -> dict[tuple[str, ...], Tensor]:
        """From the ranks that hold the rows."""
        self._require_inside(batch)
        values_N, lengths_KB, weights_N = self._given.bags(batch)
        jagged = _torchrec.KeyedJaggedTensor(
            keys=list(self._keys),
            values=values_N,
            lengths=torch.ones_like(values_N) if lengths_KB is None else lengths_KB,
            weights=weights_N,
            stride=len(batch),
        )
        pooled = self.collection(jagged)
        keys = pooled.keys()
        if self._found is None or self._found[0] != keys:
            order = BagOrder(self.layout, [self._keys[key] for key in keys])
            self._found = (list(keys), order)
        return self._found[1].vectors(pooled.values(), batch)

    def look_up_directly(self) -> None:
        """Call the kernels without the exchange of ids and vectors: this rank has all tables."""
        self._direct = [
            _Kernel(
                module.emb_module,
                BagOrder(self.layout, [self._keys[k] for k in module._config.feature_names()]),
            )
            for lookup in self.collection._lookups
            for module in lookup._emb_modules
        ]

    def _require_inside(self, batch: Batch) -> None:
        """Fail on the rank that has an id outside its table, before ids are exchanged.

        Later only the rank that holds the rows could notice, while the others wait for it; and the
        id it sees is no longer the one that was in the batch.

        Raises:
            DataError: names the features (on CUDA a device-side assertion ends the process, with
                the feature's name on stderr).
        """
        rows = {f: table.num_embeddings for table in self.layout.tables for f in table.features}
        ids = {f.name: ids_B for f, ids_B in zip(self.layout.single, batch.ids_FB, strict=True)}
        for name, column in (batch.bags | batch.sequences).items():
            ids[name] = column.values_N
        problems = []
        for name, ids_N in ids.items():
            outside_N = (ids_N < 0) | (ids_N >= rows[name])
            message = f"feature `{name}`: an id is outside its table of {rows[name]:,} rows"
            if ids_N.is_cuda:  # the host does not wait for the device
                torch._assert_async(~outside_N.any(), message)
            elif bool(outside_N.any()):
                found = int(ids_N[outside_N][0])
                problems.append(f"{message}: {found}. Encode rows with the run's own encoders.")
        if problems:
            raise DataError.all_of(problems)

    @torch.no_grad()
    def initialize(self) -> None:
        """Fill this rank's part of every table with its initial weights."""
        for key, weight in self.tensors().items():
            if key.endswith("/weight"):
                table = key.removeprefix("tables/").removesuffix("/weight")
                for part in weight.local_shards():
                    (first, _), (num_rows, _) = (
                        part.metadata.shard_offsets,
                        part.metadata.shard_sizes,
                    )
                    fill_rows(
                        part.tensor.detach(),
                        first,
                        num_rows,
                        table,
                        self.seed,
                        self.config.init_scale,
                    )

    def tensors(self) -> dict[str, Any]:
        """Weights and optimizer states by logical name, as the sharded tensors they are.

        Writing to them changes the tables. Keys are `tables/<table>/weight` and
        `tables/<table>/optimizer/<state>`; a rank lacks the states of tables it holds no row of.
        """
        optimizer = self.fused_optimizer
        if optimizer is None:
            return {}
        with _torchrec.quiet():
            weights = self.collection.state_dict()
            states = optimizer.state_dict()["state"]
        found: dict[str, Any] = {}
        for inner, table in self.inner.items():
            key = f"embedding_bags.{inner}.weight"
            found[f"tables/{table.name}/weight"] = weights[key]
            for name, state in states.get(key, {}).items():
                found[f"tables/{table.name}/optimizer/{name.rpartition('.')[2]}"] = state
        return found

    def set_step(self, step: int) -> None:
        """Tell the kernels how many updates were made, after loading: Adam corrects by it."""
        for module in self.kernels():
            if hasattr(module, "iter"):
                module.set_optimizer_step(step)

    def kernels(self) -> list[Any]:
        """The table-batched kernels of this rank; `modules()` does not reach them."""
        lookups = getattr(self.collection, "_lookups", ())
        found = (module for lookup in lookups for module in lookup.modules())
        return [module for module in found if hasattr(module, "set_optimizer_step")]


class Sharded(NamedTuple):
    """A net whose tables have memory and a place."""

    net: Any
    """`DistributedModelParallel` around the net that was given; `.module` is that net."""
    plan: str
    """The plan in words."""


def shard(
    net: nn.Module,
    device: torch.device | str,
    *,
    batch_size: int,
    sharding: Mapping[str, Sharding] | None = None,
    local_world_size: int | None = None,
    find_unused_parameters: bool = False,
) -> Sharded:
    """Plan the tables of `net`, give them memory and initial weights. Collective.

    The dense part is replicated. The default process group must exist (gloo or nccl), with one rank
    as well.

    Args:
        net: a module that contains one `ShardedLookup`.
        device: of this rank.
        batch_size: rows of one rank's batch.
        sharding: table -> sharding that the plan must take.
        local_world_size: ranks on this machine.
        find_unused_parameters: True for a tower of which a step may leave a part unused.
    """
    device = torch.device(device)
    lookup = next(module for module in net.modules() if isinstance(module, ShardedLookup))
    require_optimizer(lookup.config, device)
    sharders = [_sharder()]
    if dist.get_world_size() == 1:
        wrapper = _one_replica()
    else:
        wrapper = _torchrec.DefaultDataParallelWrapper(
            static_graph=False, find_unused_parameters=find_unused_parameters
        )
    with _torchrec.quiet():
        _torchrec.forget_groups()
        plan = plan_tables(
            net,
            sharders,
            lookup.inner,
            sharding or {},
            device,
            batch_size=batch_size,
            local_world_size=local_world_size,
        )
        parallel = _torchrec.DistributedModelParallel(
            net, device=device, plan=plan, sharders=sharders, data_parallel_wrapper=wrapper
        )
    world_size = dist.get_world_size()
    if world_size == 1 and lookup.inner:
        lookup.look_up_directly()
    lookup.initialize()
    return Sharded(parallel, plan_in_words(plan, lookup.inner, world_size=world_size))


def _sharder() -> Any:
    """A sharder that offers row-wise tables on CPU too, and fused kernels alone."""

    class FusedSharder(_torchrec.EmbeddingBagCollectionSharder):  # type: ignore[misc]  # its base is Any
        def sharding_types(self, compute_device_type: str) -> list[str]:
            return ["table_wise", "row_wise", "table_row_wise"]

        def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
            return ["fused"]

    # An id outside its table would be clamped to row 0 and train it; the data layer never gives
    # one, so fail.
    return FusedSharder(fused_params={"bounds_check_mode": _torchrec.BoundsCheckMode.FATAL})


def _one_replica() -> Any:
    """No data-parallel wrapper: one rank has nothing to average."""

    class OneReplica(_torchrec.DataParallelWrapper):  # type: ignore[misc]  # its base is Any
        def wrap(self, dmp: Any, env: Any, device: torch.device) -> None:
            dmp.module.to(device)

    return OneReplica()
