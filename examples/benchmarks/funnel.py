"""The spec that the simulator ships, against opponents, where the truth is known.

    python examples/benchmarks/funnel.py --worlds 1 --fresh 2026 --seeds 3 --work runs/funnel

In each world (that of the README, and one of another size, sparsity and noise) everybody trains on
the same rows and columns, chooses on the same validation rows and is judged on the same test rows:

- `recmtl train spec.yaml` as it stands, with both objectives, and with CVR learnt from impressions
  drawn at random;
- torch-rechub's MMoE as its tutorial has it, in an environment of its own (`--envs`);
- matrix factorisation with L2 and a factorisation machine, in plain PyTorch;
- gradient boosting on mean labels, by scikit-learn.

Whatever is finished is not done again: the same command goes on where it was stopped. `--rows`
makes both worlds smaller, for a trial.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import begin, provenance
from funnel_contestants import (
    FACTORISED,
    OURS,
    Contestant,
    asked,
    factorised,
    ours,
    rechub,
    trees,
)
from funnel_figures import TASKS, Figures
from funnel_page import draw, page
from funnel_world import World


def main() -> None:
    """Train what is missing, judge, and write the page and its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, nargs="*", default=[1], help="seeds, README's size")
    parser.add_argument("--fresh", type=int, nargs="*", default=[2026], help="seeds, another size")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of a network")
    parser.add_argument("--rows", type=int, help="at most so many rows in every world")
    parser.add_argument("--work", type=Path, default=Path("runs/funnel"), help="what is kept")
    parser.add_argument("--envs", type=Path, default=Path("runs/peers/envs"), help="of peers")
    results = Path(__file__).parent / "results"
    parser.add_argument("--result", type=Path, default=results / "funnel.md", help="the page")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}.")
    if not args.worlds and not args.fresh:
        parser.error("name a world: --worlds 1 or --fresh 2026.")
    begin(args.work)
    found = {}
    for world in worlds(args):
        everybody = []
        for contestant in contestants(world, args):
            sys.stderr.write(_line(world, contestant))
            everybody.append(contestant)
        found[world] = everybody
    args.result.parent.mkdir(parents=True, exist_ok=True)
    picture = args.result.with_suffix(".png")
    figures = {
        world: [Figures(contestant, world) for contestant in everybody if contestant.runs]
        for world, everybody in found.items()
    }
    problems = {c.name: c.problem for everybody in found.values() for c in everybody if c.problem}
    draw(figures, picture)
    how = f"`{command(args)}`, {provenance(args.work)}"
    text = page(figures, problems, how, picture.name)
    args.result.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def worlds(args: argparse.Namespace) -> Iterator[World]:
    """The worlds of the README's size, and then the others."""

    def rows(count: int) -> int:
        return min(count, args.rows or count)

    for seed in args.worlds:
        yield World(rows(400_000), seed, args.work)
    for seed in args.fresh:
        yield World(rows(250_000), seed, args.work, users=8_000, items=1_200, signal=0.8)


def contestants(world: World, args: argparse.Namespace) -> Iterator[Contestant]:
    """Everybody, one after the other."""
    for objective in OURS:
        yield ours(world, objective, args.seeds)
    yield asked(world, args.seeds)
    yield trees(world)
    for kind in FACTORISED:
        yield factorised(world, kind)
    yield rechub(world, args.seeds, args.envs)


def command(args: argparse.Namespace) -> str:
    """What was typed, with the defaults."""
    parts = ["python examples/benchmarks/funnel.py"]
    parts += [
        " ".join([f"--{name}", *map(str, getattr(args, name))]) for name in ("worlds", "fresh")
    ]
    parts.append(f"--seeds {args.seeds}")
    return " ".join([*parts, *([f"--rows {args.rows}"] if args.rows else [])])


def _line(world: World, contestant: Contestant) -> str:
    if contestant.problem:
        return f"{world.kept}: {contestant.name}: {contestant.problem}\n"
    figures = Figures(contestant, world)
    aucs = ", ".join(f"{task} {figures.mean(task):.4f}" for task in TASKS)
    return f"{world.kept}: {contestant.name}: {aucs}\n"


if __name__ == "__main__":
    main()
