"""One process of a `Pool`: ``python -m tests.distributed.worker RANK ANSWERS_FD``.

A job is a line of JSON on stdin; its answer is one on the pipe. Without stdin it ends.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from datetime import timedelta
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.distributed as dist

from recmtl._torchrec import check_versions
from tests.distributed import jobs


def main(rank: int, answers_fd: int) -> None:
    torch.set_num_threads(1)
    check_versions()  # its import takes seconds, that of all ranks at the same time
    with os.fdopen(answers_fd, "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            answers.write(json.dumps(answer(rank, json.loads(line))) + "\n")
            answers.flush()
    os._exit(0)  # on a busy machine torch's threads have aborted an interpreter that was leaving


def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
    try:
        join(rank, request["world_size"], request["store"])
        value = getattr(jobs, request["job"])(**request["arguments"])
        dist.barrier()
    except Exception:  # whatever it is, the pool reports it
        return {"error": traceback.format_exc()}
    return {"value": value}


def join(rank: int, world_size: int, store: str) -> None:
    """The group of one job, and the environment in which torchrun would start its script."""
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()
    os.environ |= {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "WORLD_SIZE": f"{world_size}",
        "LOCAL_WORLD_SIZE": f"{world_size}",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "TORCHELASTIC_RUN_ID": "pool",
    }
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=300),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
