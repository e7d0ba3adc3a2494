"""A TorchRec DLRM: HoME as its over arch, its tables sharded by DistributedModelParallel.

    python examples/stacks/torchrec_dlrm.py
    torchrun --nproc-per-node 2 examples/stacks/torchrec_dlrm.py

Two processes, each with half of every batch, print the losses of one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import sys

import torch
import torch.distributed as dist
from clicks import LABELS, NUM_ITEMS, NUM_USERS, TASKS, Meter, Rows, auc_line, draw
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.models.dlrm import DLRM
from torchrec.optim import RowWiseAdagrad

from recmtl.tasks import TaskSet
from recmtl.towers import HoME, HoMEConfig, TaskSlot

DIM = 16
FEATURES = {"user": NUM_USERS, "item": NUM_ITEMS}
BATCH_ROWS = 512


def start(table: Tensor) -> None:
    """First weights, equal whichever process holds the table."""
    nn.init.normal_(table, std=0.1, generator=torch.Generator().manual_seed(len(table)))


def dlrm() -> DLRM:
    """What was there before."""
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"{name}_table",
                embedding_dim=DIM,
                num_embeddings=rows,
                feature_names=[name],
                init_fn=start,
            )
            for name, rows in FEATURES.items()
        ]
    )
    return DLRM(
        tables, dense_in_features=1, dense_arch_layer_sizes=[DIM], over_arch_layer_sizes=[64, 2]
    )


def sharded(model: DLRM) -> DistributedModelParallel:
    """The model with its tables spread over all processes, and the rest in each of them."""
    apply_in_backward(RowWiseAdagrad, model.sparse_arch.parameters(), {"lr": 0.1, "eps": 1e-8})
    topology = Topology(world_size=dist.get_world_size(), compute_device="cpu")
    in_backward = ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=BATCH_ROWS,
        constraints={f"{name}_table": in_backward for name in FEATURES},
    )
    sharders = [EmbeddingBagCollectionSharder()]
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    return DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)


def columns(rows: Rows) -> tuple[Tensor, KeyedJaggedTensor]:
    """Rows as a DLRM takes them."""
    ids = torch.cat([rows.user_B, rows.item_B])
    sparse = KeyedJaggedTensor(
        keys=list(FEATURES), values=ids, lengths=torch.ones_like(ids, dtype=torch.int32)
    )
    return rows.price_B.unsqueeze(1), sparse


def main() -> None:
    """Train, and judge on held-out rows."""
    if "RANK" in os.environ:  # under torchrun
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    train, held_out = draw()
    model = dlrm()

    # The three lines: what the tasks are, a tower for them, and the tower in the over arch's place.
    tasks = TaskSet(TASKS, labels=LABELS, objective="entire_space")
    slots = [TaskSlot("ctr", group="look"), TaskSlot("cvr", group="buy")]
    num_pairs = len(FEATURES) * (len(FEATURES) + 1) // 2  # products that a DLRM makes
    model.over_arch = HoME(HoMEConfig(expert_widths=(64, 32)), in_dim=DIM + num_pairs, tasks=slots)

    parallel = sharded(model)
    dense = [p for name, p in parallel.named_parameters() if "sparse_arch" not in name]
    optimizer = torch.optim.Adam(dense, lr=0.01)
    for epoch in range(3):
        meter = Meter(tasks)
        for batch in train.batches(BATCH_ROWS, seed=epoch):
            rows = batch.at(slice(rank, None, world_size))  # this process's share
            terms = tasks.loss(parallel(*columns(rows)), rows.labels_BK, rows.weight_B)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            meter.add(terms, batch)
        dist.all_reduce(meter.sums_T)  # every process has seen its share
        meter.sums_T /= world_size
        if rank == 0:
            sys.stdout.write(meter.line(epoch))
    parallel.eval()
    with torch.no_grad():  # FBGEMM's lookup on a CPU has no inference mode
        probs_BT = tasks.probs(parallel(*columns(held_out)))  # collective: every process asks
    if rank == 0:
        sys.stdout.write(auc_line(tasks, probs_BT, held_out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
