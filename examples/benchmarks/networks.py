"""What every tower, interaction and wide part costs, beside the matrix products it makes.

    python examples/benchmarks/networks.py --threads 1 --out runs/networks.json

A step is forward, one binary loss a task, backward and fused Adam, the input in memory: 21 fields
of 16 numbers, 20 sequence items and their target. Every matrix product of a step is written down
while it runs, with its shapes (batched ones as batched ones); `products` are these alone, one after
the other, into memory that is there already. What a step takes over that is what lies between its
products. `dense` is a network of the same FLOPs at the rate of large batched products: the three of
a bank of eight layers from 512 to 256 numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench import provenance
from rounds import alternate, markdown, paired_ratio, write_result
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from recmtl.towers import (
    BiInteractionConfig,
    CGCConfig,
    CrossNetConfig,
    DTRNConfig,
    ESMMConfig,
    FMConfig,
    FwFMConfig,
    HoMEConfig,
    InputDims,
    LinearConfig,
    MaskNetConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    StackConfig,
    TaskSlot,
    TowerInput,
    build_tower,
)

FIELDS, WIDTH, ITEMS = 21, 16, 20
DIMS = InputDims(
    x=FIELDS * WIDTH,
    fields=tuple(f"field_{i}" for i in range(FIELDS)),
    field_dim=WIDTH,
    sequences={"history": ITEMS},
)
SIZES: dict[str, Any] = {"expert_widths": (128, 64), "head_widths": (32,)}
BOTTOM = SharedBottomConfig(**SIZES)
MMOE = MMoEConfig(num_experts=8, **SIZES)
NETWORKS: dict[str, tuple[Any, int]] = {
    "shared_bottom": (BOTTOM, 2),
    "mmoe": (MMOE, 2),
    "cgc": (CGCConfig(num_shared_experts=4, num_task_experts=2, **SIZES), 2),
    "ple": (PLEConfig(num_levels=2, num_shared_experts=4, num_task_experts=2, **SIZES), 2),
    "esmm": (ESMMConfig(head_widths=(128, 64)), 2),
    "home": (HoMEConfig(**SIZES), 2),
    "home, 30 tasks in 3 groups": (HoMEConfig(**SIZES), 30),
    "home of default widths, 30 tasks": (HoMEConfig(), 30),
    "dtrn under shared_bottom": (DTRNConfig(head=BOTTOM), 2),
    "dtrn under mmoe": (DTRNConfig(head=MMOE), 2),
    "mmoe, wide linear": (StackConfig(tower=MMOE, wide=LinearConfig()), 2),
    "mmoe, wide fm": (StackConfig(tower=MMOE, wide=FMConfig()), 2),
    "mmoe, wide fwfm": (StackConfig(tower=MMOE, wide=FwFMConfig()), 2),
    "mmoe on dcnv2": (StackConfig(tower=MMOE, interaction=CrossNetConfig()), 2),
    "mmoe on fm": (StackConfig(tower=MMOE, interaction=BiInteractionConfig()), 2),
    "mmoe on masknet": (StackConfig(tower=MMOE, interaction=MaskNetConfig()), 2),
}

PAGE = """# What networks cost beside their matrix products

`python examples/benchmarks/networks.py --threads {threads} --batch-size {rows}`, {provenance}.
Towers alone, without tables; {fields} fields of {width} numbers, {items} items in a sequence.
Medians; noise is half the distance between the quartiles. `over products` is the time of a step
over that of its matrix products alone, batched ones at the rate of batched ones; `over dense` over
that of large batched products of the same FLOPs.

{table}"""


def main() -> None:
    """Measure, print Markdown and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--page", type=Path, help="where to write the page (default: print it)")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found, lines = {}, []
    for name in args.networks:
        config, tasks = NETWORKS[name]
        step, weights = step_of(config, tasks, args.batch_size)
        shapes = shapes_of(step)
        contestants = {
            "step": step,
            "products": products(shapes, args.batch_size),
            "dense": products(dense_shapes(args.batch_size), args.batch_size),
        }
        timings = alternate(contestants, rounds=args.rounds, warm_up=2, seconds=40)
        found |= {f"{name}, {what}": timing for what, timing in timings.items()}
        flops = flops_of(shapes) / args.batch_size
        took, alone, dense = timings.values()
        share = flops_of(shapes) / flops_of(dense_shapes(args.batch_size))
        over_products = paired_ratio(took, alone, cpu=True)
        over_dense = paired_ratio(took, dense, cpu=True) / share
        per_row = [flops / 1e6, took.wall, took.cpu, alone.wall, dense.wall * share]
        ratios = [over_products, over_dense]
        lines.append([name, weights, *per_row, *ratios, took.rows_per_s, took.noise])
    head = ["network", "weights", "MFLOP/row", "us/row", "CPU us/row", "products us/row"]
    head += ["dense us/row", "over products, CPU", "over dense, CPU", "rows/s", "noise"]
    table = markdown(head, lines)
    page = PAGE.format(
        threads=args.threads,
        rows=args.batch_size,
        provenance=provenance(),
        table=table,
        fields=FIELDS,
        width=WIDTH,
        items=ITEMS,
    )
    if args.page:
        args.page.write_text(page, encoding="utf-8")
    else:
        print(page)  # noqa: T201
    if args.out:
        write_result(args.out, about=provenance(), timings=found, threads=args.threads)


def step_of(config: Any, tasks: int, batch_size: int) -> tuple[Callable[[], int], int]:
    """A step of a network, and the number of its weights."""
    torch.manual_seed(0)
    slots = [
        TaskSlot(f"task_{t}", group="abc"[t % 3] if tasks > 3 else "all") for t in range(tasks)
    ]
    net = build_tower(config, in_dim=DIMS, tasks=slots)
    fields_BFE = torch.randn(batch_size, FIELDS, WIDTH)
    lengths_B = torch.randint(1, ITEMS + 1, (batch_size,))
    items_BLE = torch.randn(batch_size, ITEMS, WIDTH)
    x: Any = fields_BFE.flatten(1)
    if net.requires:
        x = TowerInput(x, fields_BFE, {"history": (items_BLE, lengths_B)}, fields_BFE[:, 0])
    labels_BT = torch.rand(batch_size, tasks).round()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def leaf(part: Tensor) -> Tensor:
        return part.detach().requires_grad_() if part.is_floating_point() else part

    def run() -> int:
        optimizer.zero_grad()
        given = tree_map_only(Tensor, leaf, x)
        nn.functional.binary_cross_entropy_with_logits(net(given), labels_BT).backward()
        optimizer.step()
        return batch_size

    return run, sum(weight.numel() for weight in net.parameters())


def shapes_of(step: Callable[[], int]) -> list[tuple[int, int, int, int]]:
    """Batch, rows, depth and columns of every matrix product that a step makes."""
    with _Products() as seen:
        step()
    return seen.shapes


def dense_shapes(batch_size: int) -> list[tuple[int, int, int, int]]:
    """The products of a bank of eight layers, forward and backward."""
    rows, wide, narrow = batch_size, 512, 256
    return [(8, rows, wide, narrow), (8, rows, narrow, wide), (8, wide, rows, narrow)]


def flops_of(shapes: Sequence[tuple[int, int, int, int]]) -> float:
    """Of products of these shapes."""
    return float(sum(2 * b * m * k * n for b, m, k, n in shapes))


class _Products(TorchDispatchMode):
    """Writes the shapes of matrix products down."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        pair = _factors(func.overloadpacket, args)
        if pair is not None:
            first, second = (part if part.dim() == 3 else part.unsqueeze(0) for part in pair)
            self.shapes.append((*first.shape, second.shape[2]))
        return func(*args, **(kwargs or {}))


def _factors(operator: Any, args: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    aten = torch.ops.aten
    if operator in (aten.mm, aten.bmm):
        return args[0], args[1]
    return (args[1], args[2]) if operator in (aten.addmm, aten.baddbmm) else None


def products(shapes: Sequence[tuple[int, int, int, int]], batch_size: int) -> Callable[[], int]:
    """Products of these shapes into memory that is there already, the same for equal shapes."""
    made = {
        (b, m, k, n): (torch.randn(b, m, k), torch.randn(b, k, n), torch.empty(b, m, n))
        for b, m, k, n in shapes
    }

    def run() -> int:
        for shape in shapes:
            first, second, out = made[shape]
            if shape[0] == 1:
                torch.mm(first[0], second[0], out=out[0])
            else:
                torch.bmm(first, second, out=out)
        return batch_size

    return run


if __name__ == "__main__":
    main()
