"""One training step, its batch in memory already: ours, its floor, and the TorchRec way.

    python examples/benchmarks/step.py runs/workload --threads 1 --out runs/step.json

A step is forward, backward with the fused update of the tables, and Adam of the rest. Contestants
take turns on many different batches of the log in its shuffled order; the floor is that of
`limits.py`. `--grow` instead compares tables of 40 million rows with those of the log.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchrec_way
from bench import provenance
from limits import floor_parts
from rounds import Timing, alternate, markdown, paired_ratio, write_result
from torch import Tensor
from workload import IDS, TOWERS, spec, write, zipf

from recmtl.batch import Batch
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, TrainStreams, open_splits
from recmtl.embeddings.sharded import shard
from recmtl.training.module import MultiTaskModule
from recmtl.training.strategy import bare_net

NUM_BATCHES = 64
STEPS = 8
"""Steps of a contestant in one round."""
HEAD = ["step", "rows/s", "µs/row", "CPU µs/row", "noise"]
HEAD += ["% of floor", "of CPU", "TorchRec way takes", "of CPU", "bf16 takes", "of CPU"]
GROWTH = 17
"""The largest table of the log has a million rows: 17 times all of them are 40 million."""


class Ours:
    """The module's own step without a Trainer: what the strategy does, and nothing else."""

    def __init__(self, config: RunConfig, encoders: Encoders, *, bf16: bool = False) -> None:
        """Build the net, its tables and its optimizers; `bf16` is what `bf16-mixed` does."""
        self.bf16 = bf16
        self.module = MultiTaskModule(config, encoders)
        self.module.configure_model()
        sharded = shard(self.module.net, "cpu", batch_size=config.train.batch_size)
        self.module.net = sharded.net
        self.optimizer = self.module.configure_optimizers()

    def __call__(self, batch: Batch) -> None:
        """One step."""
        optimizer = self.optimizer
        optimizer.push_lr()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def phases(self, batches: list[Batch]) -> dict[str, float]:
        """CPU milliseconds of each phase of a step, on average."""
        spent: dict[str, float] = defaultdict(float)
        last = time.process_time()

        def mark(phase: str) -> Callable[..., None]:
            def done(*_: object) -> None:
                nonlocal last
                now = time.process_time()
                spent[phase] += now - last
                last = now

            return done

        def watch_input(_module: object, _args: object, x_BD: Tensor) -> None:
            mark("inputs")()
            x_BD.register_hook(mark("backward dense"))

        net = bare_net(self.module.net)
        hooks = [
            net.lookup.register_forward_pre_hook(mark("rest")),
            net.lookup.register_forward_hook(mark("lookup forward")),
            net.inputs.register_forward_hook(watch_input),
            net.tower.register_forward_hook(mark("tower forward")),
        ]
        mark("rest")()
        spent.clear()
        for batch in batches:
            self.optimizer.push_lr()
            loss = self.module.training_step(batch, 0)
            mark("loss")()
            self.optimizer.zero_grad()
            mark("rest")()
            loss.backward()
            mark("lookup backward, update")()
            self.optimizer.step()
            mark("dense optimizer")()
        for hook in hooks:
            hook.remove()
        return {phase: 1e3 * seconds / len(batches) for phase, seconds in spent.items()}


def prepared(
    folder: Path,
    tower: str,
    batch_size: int,
    *,
    sequences: bool,
    growth: int = 1,
    ids: str = "hash: {size}",
) -> tuple[RunConfig, Encoders, list[Batch]]:
    """A config, its encoders, and batches of the log in shuffled order.

    Hashed ids fill tables of the full size; a vocabulary has only what the rows hold.
    """
    text = spec(tower, sequences=sequences, ids=ids, batch_size=batch_size)
    text = re.sub(r"hash: (\d+)", lambda found: f"hash: {growth * int(found[1])}", text)
    path = folder / f"step_{tower}.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_spec(path)
    encoders = Encoders.fit(config, folder)
    streams = TrainStreams(
        open_splits(config, folder).train,
        encoders,
        batch_size=batch_size,
        seed=0,
        memory_bytes=config.data.memory_bytes,
    )
    return config, encoders, list(itertools.islice(streams.batches(0), NUM_BATCHES))


def in_turn(step: Callable[[Any], None], batches: list[Any]) -> Callable[[], int]:
    """Some steps on the next batches, as a contestant of `alternate`."""
    endless = itertools.cycle(batches)

    def run() -> int:
        rows = 0
        for batch in itertools.islice(endless, STEPS):
            step(batch)
            rows += len(batch.click_B if hasattr(batch, "click_B") else batch)
        return rows

    return run


def measure(
    folder: Path, tower: str, batch_size: int, *, sequences: bool, rounds: int
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Timings of ours, the TorchRec way and the parts of the floor; phases of ours."""
    config, encoders, batches = prepared(folder, tower, batch_size, sequences=sequences)
    ours = Ours(config, encoders)
    rival = torchrec_way.stepper(
        tower,
        {name: encoders.tables[name] for name in IDS},
        batch_size=batch_size,
        sequences=sequences,
        lr=config.train.embedding.lr,
    )
    contestants = {
        "ours": in_turn(ours, batches),
        "ours, bf16": in_turn(Ours(config, encoders, bf16=True), batches),
        "torchrec way": in_turn(rival, [torchrec_way.prepare(batch) for batch in batches]),
        **floor_parts(tower, batch_size),
    }
    timings = alternate(contestants, rounds=rounds, warm_up=2)
    return timings, ours.phases(batches)


def spread(batches: list[Batch], encoders: Encoders) -> list[Batch]:
    """The batches with Zipf ids of the whole tables, the frequent ones anywhere in them."""
    rng, found = np.random.default_rng(0), [[] for _ in batches]
    for name in IDS:
        size = encoders.tables[name]
        ends, scatter = zipf(size), rng.permutation(size)
        for ids_FB, batch in zip(found, batches, strict=True):
            ranks_B = np.searchsorted(ends, rng.random(len(batch)), side="right")
            ids_FB.append(torch.from_numpy(scatter[ranks_B]))
    return [
        replace(batch, ids_FB=torch.stack(ids_FB))
        for ids_FB, batch in zip(found, batches, strict=True)
    ]


def grow(folder: Path, batch_size: int, rounds: int) -> dict[str, Timing]:
    """Steps with hashed tables of 40 million rows beside those of 2.4 million."""
    found: dict[str, Timing] = {}
    for tower in ("mmoe", "shared_bottom"):
        contestants = {}
        for growth in (1, GROWTH):
            config, encoders, batches = prepared(
                folder, tower, batch_size, sequences=False, growth=growth
            )
            rows = sum(encoders.tables.values())
            contestants[f"{tower}, {rows / 1e6:.1f} million rows"] = in_turn(
                Ours(config, encoders), spread(batches, encoders)
            )
        found |= alternate(contestants, rounds=rounds, warm_up=2)
        del contestants
        gc.collect()
    return found


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--towers", nargs="+", default=list(TOWERS), choices=list(TOWERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[4096, 1024])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sequences", action="store_true")
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write(args.folder, 1 << 20, sequences=args.sequences)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # it is public
    sys.stdout.write(f"{provenance()}, {args.threads} threads\n\n")
    if args.grow:
        timings = grow(args.folder, args.batch[0], args.rounds)
        phases: dict[str, dict[str, float]] = {}
        sys.stdout.write(_table(timings) + "\n")
        names = list(timings)
        for small, large in zip(names[::2], names[1::2], strict=True):
            sys.stdout.write(
                f"{large} / {small}: {paired_ratio(timings[large], timings[small]):.2f}\n"
            )
    else:
        timings, phases = measure_all(args)
    if args.out:
        about = f"{provenance()}, {args.threads} threads"
        write_result(args.out, about=about, timings=timings, phases=phases)


def measure_all(args: argparse.Namespace) -> tuple[dict[str, Timing], dict[str, dict[str, float]]]:
    """Every tower and batch size; prints as it goes."""
    timings: dict[str, Timing] = {}
    phases: dict[str, dict[str, float]] = {}
    for tower, batch_size in itertools.product(args.towers, args.batch):
        found, phase = measure(
            args.folder, tower, batch_size, sequences=args.sequences, rounds=args.rounds
        )
        label = f"{tower} {batch_size}" + (" with sequences" if args.sequences else "")
        timings |= {f"{label}, {name}": timing for name, timing in found.items()}
        phases[label] = phase
        ours, rival = found["ours"], found["torchrec way"]
        floors = zip(found["gemm"].wall_us, found["tables"].wall_us, strict=True)
        floor = Timing(
            wall_us=[sum(pair) for pair in floors],
            cpu_us=[
                sum(pair) for pair in zip(found["gemm"].cpu_us, found["tables"].cpu_us, strict=True)
            ],
        )
        row = [
            label,
            round(ours.rows_per_s),
            ours.wall,
            ours.cpu,
            ours.noise,
            100 * paired_ratio(floor, ours),
            100 * paired_ratio(floor, ours, cpu=True),
            paired_ratio(rival, ours),
            paired_ratio(rival, ours, cpu=True),
            paired_ratio(found["ours, bf16"], ours),
            paired_ratio(found["ours, bf16"], ours, cpu=True),
        ]
        lines = markdown(HEAD, [row]).splitlines(keepends=True)
        sys.stdout.writelines(lines if len(phases) == 1 else lines[-1:])
        sys.stdout.flush()
        gc.collect()
    sys.stdout.write("\n")
    names = list(dict.fromkeys(name for phase in phases.values() for name in phase))
    rows = [[label, *(phase.get(n, 0.0) for n in names)] for label, phase in phases.items()]
    sys.stdout.write(markdown(["CPU ms of a step", *names], rows) + "\n")
    return timings, phases


def _table(timings: dict[str, Timing]) -> str:
    rows = [[name, round(t.rows_per_s), t.wall, t.cpu, t.noise] for name, t in timings.items()]
    return markdown(["step", "rows/s", "µs/row", "CPU µs/row", "noise"], rows)


if __name__ == "__main__":
    main()
