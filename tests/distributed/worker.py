"""One rank of a few gloo processes: trains a small net, saves and loads checkpoints.

``python -m tests.distributed.worker FOLDER RANK WORLD_SIZE SHARDING`` leaves a checkpoint
``FOLDER/trained``, loads ``FOLDER/given`` where it exists and saves it again as ``FOLDER/again``.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.distributed as dist

from recmtl import checkpoint
from recmtl.embeddings import EmbeddingConfig
from recmtl.embeddings.plan import agree
from recmtl.embeddings.sharded import ShardedLookup, shard
from recmtl.errors import CheckpointError, SpecError
from recmtl.models import MultiTaskNet, build_net, build_tasks
from recmtl.towers import MMoEConfig
from tests.embeddings.world import ENCODERS, ROWS, SPEC, random_rows, to_batch, world_layout

GLOBAL_ROWS = 32
TOWER = MMoEConfig(num_experts=2, expert_widths=(8,), head_widths=())


def build(sharding: str, rows: int) -> tuple[Any, MultiTaskNet]:
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(lr=0.1), seed=3)
    net = build_net(SPEC, TOWER, ENCODERS, lookup, seed=3)
    return shard(net, "cpu", batch_size=rows, sharding=dict.fromkeys(ROWS, sharding)), net


def tensors(net: MultiTaskNet) -> dict[str, Any]:
    dense = {f"net/{name}": tensor for name, tensor in net.dense_tensors().items()}
    return {**net.lookup.tensors(), **dense}


def train(parallel: Any, rank: int, world_size: int, steps: int = 3) -> None:
    """Steps on the same global batches, whatever the world size: rank r takes every n-th row."""
    tasks = build_tasks(SPEC, "entire_space", "rows", ENCODERS)
    dense = [p for n, p in parallel.named_parameters() if "collection" not in n]
    optimizer = torch.optim.SGD(dense, lr=0.1)
    for step in range(steps):
        batch = to_batch(random_rows(GLOBAL_ROWS, seed=step), seed=step)
        mine = batch.select(torch.arange(rank, GLOBAL_ROWS, world_size))
        optimizer.zero_grad()
        logits_BH, squares_B = parallel(mine, squares=True)
        total = torch.tensor(float(GLOBAL_ROWS) / world_size)
        terms = tasks.loss(logits_BH, mine.labels_BK, mine.weight_B, total_weight=total)
        (terms.total + 0.1 * squares_B.sum() / total).backward()
        optimizer.step()


def main(folder: Path, rank: int, world_size: int, sharding: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    sharded, net = build(sharding, GLOBAL_ROWS // world_size)
    train(sharded.net, rank, world_size)
    checkpoint.save(folder / "trained", tensors(net), {"world_size": world_size})
    if rank == 0:
        (folder / "plan.txt").write_text(sharded.plan, encoding="utf-8")
    if (folder / "given").is_dir():
        checkpoint.load_into(folder / "given", tensors(net))
        checkpoint.save(folder / "again", tensors(net), None)
    failures = [
        _failure(lambda: agree(SpecError("rank 1") if rank == 1 else None, "p", what="plans")),
        _failure(lambda: agree(None, f"plan of {rank}", what="plans")),
        _failure(lambda: checkpoint.load_into(folder / "nowhere", tensors(net))),
    ]
    (folder / f"failures-{rank}.txt").write_text("\n".join(failures), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # on a busy machine torch's threads have aborted an interpreter that was leaving


def _failure(work: Any) -> str:
    try:
        work()
    except (SpecError, CheckpointError) as error:
        return str(error)
    return "none"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
