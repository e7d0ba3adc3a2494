"""What a task costs: MMoE and PLE of 2 to 30 tasks beside one dense network of the same FLOPs.

    python examples/benchmarks/many_tasks.py --threads 1 --out runs/many_tasks.json

A step is forward, one binary loss a task, backward and fused Adam, the input in memory. The dense
network is `Linear, ReLU, Linear` whose hidden layer is as wide as makes its matrix products cost as
much arithmetic as the tower's: all of it runs in three large products, as no tower can. `gemm` is
the tower's own products alone, without anything between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from bench import provenance
from limits import WIDTH, Layer, layers, products
from rounds import alternate, markdown, paired_ratio, write_result
from torch import nn
from workload import TOWERS

from recmtl.towers import MMoEConfig, PLEConfig, build_tower

COUNTS = {"mmoe": (2, 8, 15, 30), "ple": (2, 4, 8, 12)}
CONFIGS = {
    "mmoe": MMoEConfig(num_experts=8, expert_widths=(128, 64), head_widths=(32,)),
    "ple": PLEConfig(
        num_levels=2,
        num_shared_experts=4,
        num_task_experts=2,
        expert_widths=(128, 64),
        head_widths=(32,),
    ),
}


PAGE = """# What a task costs

`python examples/benchmarks/many_tasks.py --threads {threads} --batch-size {rows}`, {provenance}.
Medians; noise is half the distance between the quartiles. `over dense` is the time of a step over
that of one dense network of the same FLOPs, `share of gemm` the time of the tower's matrix products
alone over that of its step.

{table}"""


def main() -> None:
    """Measure, print Markdown and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--page", type=Path, help="where to write the page (default: print it)")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found, lines = {}, []
    for kind, counts in COUNTS.items():
        for tasks in counts:
            shapes = layers(yaml.safe_load(TOWERS[kind]), tasks=tasks)
            contestants = {
                "tower": tower_step(kind, tasks, args.batch_size),
                "dense": dense_step(shapes, tasks, args.batch_size),
                "gemm": products(shapes, args.batch_size),
            }
            timings = alternate(contestants, rounds=args.rounds, warm_up=2, seconds=40)
            found |= {f"{kind}, {tasks} tasks, {name}": t for name, t in timings.items()}
            tower, dense, gemm = timings.values()
            lines.append(
                [
                    f"{kind}, {tasks}",
                    sum(layer.flops for layer in shapes) / 1e6,
                    tower.wall,
                    tower.cpu,
                    dense.wall,
                    paired_ratio(tower, dense),
                    paired_ratio(tower, dense, cpu=True),
                    paired_ratio(gemm, tower, cpu=True),
                    tower.noise,
                ]
            )
    head = ["tower, tasks", "MFLOP/row", "us/row", "CPU us/row", "dense us/row", "over dense"]
    table = markdown([*head, "over dense, CPU", "share of gemm, CPU", "noise"], lines)
    page = PAGE.format(
        threads=args.threads, rows=args.batch_size, provenance=provenance(), table=table
    )
    if args.page:
        args.page.write_text(page, encoding="utf-8")
    else:
        print(page)  # noqa: T201
    if args.out:
        write_result(args.out, about=provenance(), timings=found, threads=args.threads)


def tower_step(kind: str, tasks: int, batch_size: int) -> Callable[[], int]:
    """A step of a tower."""
    names = [f"task_{t}" for t in range(tasks)]
    torch.manual_seed(0)
    return _step(build_tower(CONFIGS[kind], in_dim=WIDTH, tasks=names), tasks, batch_size)


def dense_step(shapes: list[Layer], tasks: int, batch_size: int) -> Callable[[], int]:
    """A step of one dense network of as many FLOPs."""
    flops = sum(layer.flops for layer in shapes)
    hidden = round(flops / 6 / (WIDTH + tasks))
    net = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, tasks))
    return _step(net, tasks, batch_size)


def _step(net: nn.Module, tasks: int, batch_size: int) -> Callable[[], int]:
    x_BD = torch.randn(batch_size, WIDTH, requires_grad=True)
    labels_BT = torch.rand(batch_size, tasks).round()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def run() -> int:
        optimizer.zero_grad()
        x_BD.grad = None
        nn.functional.binary_cross_entropy_with_logits(net(x_BD), labels_BT).backward()
        optimizer.step()
        return batch_size

    return run


if __name__ == "__main__":
    main()
