"""What this machine can do: memory, rows of tables, FBGEMM's own op, matrix products, decoding.

    python examples/benchmarks/limits.py runs/workload --threads 1 --out runs/limits.json

`floor_seconds` is what every other speed is a share of: the time of one training step if it did
nothing but its layers' matrix products (forward, weight gradient, input gradient) into memory that
is there already, and FBGEMM's own lookup and row-wise Adagrad. No bias, ReLU, gate softmax, mix of
experts, loss or dense optimizer is in it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch
import yaml
from bench import provenance
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from rounds import Timing, alternate, markdown, write_result
from torch import Tensor
from workload import DENSE, DIM, SIZES, TOWERS, write, zipf

__all__ = ["Layer", "floor_parts", "floor_seconds", "layers", "products", "tables_op"]

WIDTH = DIM * len(SIZES) + len(DENSE)
NUM_TASKS = 2
ID_BATCHES = 16
"""Batches of ids that the table op takes in turn, so that rows do not stay in the cache."""


PAGE = """# What the machine can do

`python examples/benchmarks/limits.py --threads {threads}`, {provenance}. Medians; noise is half the
distance between the quartiles.

{rates}
The floor of a training step: every matrix product of the tower's layers, forward and backward, into
memory that is there already, and FBGEMM's own lookup and row-wise Adagrad of 20 tables.

{floors}"""


class Layer(NamedTuple):
    """Equal matrix products of one layer: `copies` times (B, inputs) x (inputs, outputs)."""

    name: str
    copies: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Floating-point operations a row of training: three products."""
        return 6 * self.copies * self.inputs * self.outputs


def layers(config: Mapping[str, Any], *, width: int = WIDTH, tasks: int = NUM_TASKS) -> list[Layer]:
    """The matrix products of a tower; experts that read the same input are one, gates another."""
    kind, found = config["kind"], list[Layer]()
    if kind == "esmm":
        return _heads(config["head_widths"], width, tasks, is_shared=True)
    first, *others = config["expert_widths"]
    num_own, num_shared = config.get("num_task_experts", 0), config.get("num_shared_experts", 0)
    if kind == "mmoe":
        num_shared = config["num_experts"]
    elif kind == "shared_bottom":
        num_shared = 1
    experts, levels = num_own * tasks + num_shared, config.get("num_levels", 1)
    for level in range(1, levels + 1):
        inputs = width if level == 1 else config["expert_widths"][-1]
        name = f"level {level} " if levels > 1 else ""
        logits, shared_logits = num_own + num_shared, experts if level < levels else 0
        if level == 1:
            found.append(Layer(f"{name}experts 1", 1, inputs, experts * first))
            if kind != "shared_bottom":
                found.append(Layer(f"{name}gates", 1, inputs, logits * tasks + shared_logits))
        else:
            found.append(Layer(f"{name}task experts 1", tasks, inputs, num_own * first))
            found.append(Layer(f"{name}shared experts 1", 1, inputs, num_shared * first))
            found.append(Layer(f"{name}gates", tasks, inputs, logits))
        before = first
        for i, after in enumerate(others, start=2):
            found.append(Layer(f"{name}experts {i}", experts, before, after))
            before = after
    last = config["expert_widths"][-1]
    return found + _heads(config["head_widths"], last, tasks, is_shared=kind == "shared_bottom")


def floor_parts(tower: str, batch_size: int) -> dict[str, Callable[[], int]]:
    """What the floor is the sum of, as contestants of `alternate`."""
    found = products(layers(yaml.safe_load(TOWERS[tower])), batch_size)
    return {"gemm": found, "tables": tables_op(batch_size)}


def floor_seconds(
    tower: str, batch_size: int, threads: int, *, rounds: int = 15
) -> dict[str, float]:
    """Wall seconds of the parts of a step's floor: `gemm`, `tables` and their sum, `floor`.

    Args:
        tower: a name of `workload.TOWERS`.
        batch_size: rows B of a step.
        threads: threads of torch, which are as before afterwards.
        rounds: the parts take turns this often.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    timings = alternate(floor_parts(tower, batch_size), rounds=rounds, warm_up=3)
    torch.set_num_threads(before)
    found = {name: timing.wall * batch_size / 1e6 for name, timing in timings.items()}
    return {**found, "floor": sum(found.values())}


def products(
    found: list[Layer], batch_size: int, dtype: torch.dtype = torch.float32
) -> Callable[[], int]:
    """All products of forward and backward, into memory that is there already."""
    made = [_Product(layer, batch_size, dtype) for layer in found for _ in range(layer.copies)]

    def run() -> int:
        for product in made:
            torch.mm(product.x_BI, product.weight_IO, out=product.y_BO)
        for product in reversed(made):
            torch.mm(product.x_BI.T, product.grad_BO, out=product.grad_weight_IO)
            torch.mm(product.grad_BO, product.weight_IO.T, out=product.grad_x_BI)
        return batch_size

    return run


def tables_op(batch_size: int) -> Callable[[], int]:
    """FBGEMM's lookup, backward and row-wise Adagrad of all tables, its ids of the same Zipf."""
    op = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in SIZES],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.02,
        eps=1e-8,
    )
    op.init_embedding_weights_uniform(-0.01, 0.01)
    offsets = torch.arange(len(SIZES) * batch_size + 1)
    batches = _id_batches(batch_size)
    grad_BD = torch.full((batch_size, DIM * len(SIZES)), 1e-6)
    state = {"turn": 0}

    def run() -> int:
        state["turn"] += 1
        ids = batches[state["turn"] % ID_BATCHES]
        op(ids, offsets).backward(grad_BD)
        return batch_size

    return run


class _Product:
    """One layer's tensors and gradients."""

    def __init__(self, layer: Layer, batch_size: int, dtype: torch.dtype) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(shape).to(dtype)

        rows, (_, _, inputs, outputs) = batch_size, layer
        self.x_BI, self.grad_x_BI = random(rows, inputs), random(rows, inputs)
        self.y_BO, self.grad_BO = random(rows, outputs), random(rows, outputs)
        self.weight_IO, self.grad_weight_IO = random(inputs, outputs), random(inputs, outputs)


def _heads(widths: list[int], inputs: int, tasks: int, *, is_shared: bool) -> list[Layer]:
    found = []
    for i, outputs in enumerate([*widths, 1], start=1):
        if i == 1 and is_shared:
            found.append(Layer("heads 1", 1, inputs, tasks * outputs))
        else:
            found.append(Layer(f"heads {i}", tasks, inputs, outputs))
        inputs = outputs
    return found


def _id_batches(batch_size: int) -> list[Tensor]:
    rng = np.random.default_rng(0)
    count = ID_BATCHES * batch_size
    ids = np.stack([np.searchsorted(zipf(size), rng.random(count), side="right") for size in SIZES])
    found = torch.from_numpy(ids.astype(np.int64)).view(len(SIZES), ID_BATCHES, batch_size)
    return [found[:, i].flatten() for i in range(ID_BATCHES)]


def memory_parts() -> dict[str, tuple[Callable[[], int], str, float]]:
    """Name -> work, unit, units of one piece of work."""
    source, target = torch.ones(1 << 26), torch.zeros(1 << 26)  # 256 MiB each
    rows, ids = torch.ones(sum(SIZES), DIM), torch.randint(sum(SIZES), (1 << 20,))
    gathered = torch.empty(len(ids), DIM)

    def copy() -> int:
        target.copy_(source)
        return 1

    def change() -> int:
        target.add_(1.0)
        return 1

    def gather() -> int:
        torch.index_select(rows, 0, ids, out=gathered)
        return 1

    moved = 2 * source.nbytes / 1e9
    return {
        "copy": (copy, "GB/s read and written", moved),
        "add in place": (change, "GB/s read and written", moved),
        "gather of random 64-byte rows": (gather, "M rows/s", len(ids) / 1e6),
    }


def decoders(path: Path) -> dict[str, tuple[Callable[[], int], str, float]]:
    """Decoding of every column of the log, nothing else."""
    count = pq.ParquetFile(path).metadata.num_rows

    def polars() -> int:
        for frame in pl.scan_parquet(path).collect_batches():
            assert len(frame)
        return 1

    def arrow() -> int:
        for group in range(pq.ParquetFile(path).num_row_groups):
            assert len(pq.ParquetFile(path).read_row_group(group, use_threads=False))
        return 1

    columns = len(pq.ParquetFile(path).schema_arrow)
    return {
        f"Parquet, {columns} columns, polars": (polars, "M rows/s", count / 1e6),
        f"Parquet, {columns} columns, pyarrow": (arrow, "M rows/s", count / 1e6),
    }


def main() -> None:
    """Measure, print Markdown and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--rows", type=int, default=1 << 20, help="rows of the log, if not there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--page", type=Path, help="where to write the page (default: print it)")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write(args.folder, args.rows)
    rates, rate_table = _rates(args.folder, args.rounds)
    floors, floor_table = _floors(args.rounds)
    page = PAGE.format(
        threads=args.threads, provenance=provenance(), rates=rate_table, floors=floor_table
    )
    if args.page:
        args.page.write_text(page, encoding="utf-8")
    else:
        print(page)  # noqa: T201
    if args.out:
        timings = rates | floors
        write_result(args.out, about=provenance(), timings=timings, threads=args.threads)


def _rates(folder: Path, rounds: int) -> tuple[dict[str, Timing], str]:
    units = memory_parts() | decoders(folder / "train.parquet")
    timings = alternate({name: part[0] for name, part in units.items()}, rounds=min(rounds, 7))
    lines = [
        (name, amount / (timings[name].wall / 1e6), unit, timings[name].noise)
        for name, (_, unit, amount) in units.items()
    ]
    return timings, markdown(["what", "rate", "unit", "noise"], lines)


def _floors(rounds: int) -> tuple[dict[str, Timing], str]:
    found, lines = dict[str, Timing](), []
    for batch_size in (4096, 1024):
        for tower, text in TOWERS.items():
            shapes = layers(yaml.safe_load(text))
            parts = floor_parts(tower, batch_size) | {
                "gemm bf16": products(shapes, batch_size, torch.bfloat16)
            }
            timings = alternate(parts, rounds=rounds, warm_up=3)
            found |= {f"{tower}, {batch_size}, {name}": t for name, t in timings.items()}
            gemm, tables = timings["gemm"], timings["tables"]
            flops = sum(layer.flops for layer in shapes)
            lines.append(
                [
                    f"{tower}, {batch_size}",
                    flops / 1e6,
                    gemm.wall,
                    flops / gemm.wall / 1e3,
                    tables.wall,
                    gemm.wall + tables.wall,
                    1e6 / (gemm.wall + tables.wall),
                    timings["gemm bf16"].wall,
                    gemm.cpu + tables.cpu,
                    statistics.median([gemm.noise, tables.noise]),
                ]
            )
    head = ["tower, batch", "MFLOP/row", "GEMM us/row", "GFLOP/s", "tables us/row", "floor us/row"]
    more = ["rows/s", "GEMM bf16 us/row", "floor CPU us/row", "noise"]
    return found, markdown([*head, *more], lines)


if __name__ == "__main__":
    main()
