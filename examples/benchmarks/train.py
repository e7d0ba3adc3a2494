"""From Parquet to a trained model: against bare steps, what it learns, and in how much memory.

    python examples/benchmarks/train.py runs/workload --threads 1 --out runs/train.json

Each training is `recmtl.train` in a process of its own, on the whole log for one epoch, and so is
each run of bare steps; they take turns. Training counts from before the first row group is read.
Reading ahead has a thread of its own: with one thread of torch it takes another core, with two
threads all share two. AUC is that of `recmtl.evaluate` on test.parquet. Memory is the kernel's peak
(VmHWM) against tables + optimizer state + `data.memory` + 1 GiB. `--learning` trains with several
learning rates of the tables and several seeds instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import provenance
from rounds import Timing, markdown, paired_ratio, write_result
from workload import DIM, TOWERS, spec, write

GIB = 2**30
RATES = (0.02, 0.03, 0.05, 0.07, 0.1)
BARE_SECONDS = 6.0


def main() -> None:
    """Measure and print tables."""
    if "--child" in sys.argv:
        child(json.loads(sys.argv[sys.argv.index("--child") + 1]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--towers", nargs="+", default=list(TOWERS), choices=list(TOWERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1 << 20, help="of the log, if it is not there")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--sequences", action="store_true")
    parser.add_argument("--learning", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    write(args.folder, args.rows, sequences=args.sequences)
    about = f"{provenance()}, {args.threads} threads, {args.precision}"
    sys.stdout.write(f"{about}\n\n")
    timings, found = learning(args) if args.learning else speed(args)
    if args.out:
        write_result(args.out, about=about, timings=timings, found=found)


def speed(args: argparse.Namespace) -> tuple[dict[str, Timing], list[dict[str, Any]]]:
    """Training and bare steps in turns."""
    timings: dict[str, Timing] = {}
    results, rows = list[dict[str, Any]](), list[list[object]]()
    for tower in args.towers:
        train, bare = Timing(wall_us=[], cpu_us=[]), Timing(wall_us=[], cpu_us=[])
        for turn in range(args.rounds):
            for kind, timing in (("bare", bare), ("train", train)):
                result = run(args, tower, kind, seed=turn)
                timing.wall_us.append(1e6 / result["rows_per_s"])
                timing.cpu_us.append(result["cpu_us"])
                results.append({"tower": tower, "kind": kind, **result})
        trained = [r for r in results if r["tower"] == tower and r["kind"] == "train"]
        timings |= {f"{tower}, train": train, f"{tower}, bare": bare}
        sys.stderr.write(f"{tower}: {[round(t) for t in train.cpu_us]} CPU µs/row\n")
        over = (max(r["peak_bytes"] - r["bound_bytes"] for r in trained)) / 2**20
        rows.append(
            [
                tower,
                round(train.rows_per_s),
                100 * paired_ratio(bare, train),
                train.noise,
                train.cpu,
                bare.cpu,
                statistics.median(r["whole_s"] for r in trained),
                *(statistics.mean(r["auc"][task] for r in trained) for task in ("ctr", "ctcvr")),
                max(r["peak_bytes"] for r in trained) / GIB,
                f"{over:+.0f} MiB",
            ]
        )
    head = ["tower", "rows/s", "% of bare steps", "noise", "CPU µs/row, all", "bare steps"]
    head += ["s, import to end", "AUC ctr", "AUC ctcvr", "peak GiB", "over the bound"]
    sys.stdout.write(markdown(head, rows))
    return timings, results


def learning(args: argparse.Namespace) -> tuple[dict[str, Timing], list[dict[str, Any]]]:
    """AUC by learning rate of the tables, mean of the seeds."""
    results, rows = list[dict[str, Any]](), list[list[object]]()
    for tower in args.towers:
        for rate in RATES:
            found = [
                run(args, tower, "train", seed=s, rate=rate)["auc"] for s in range(args.rounds)
            ]
            results.append({"tower": tower, "rate": rate, "auc": found})
            columns = [[auc[task] for auc in found] for task in ("ctr", "ctcvr")]
            means = [round(statistics.mean(column), 4) for column in columns]
            spreads = [round(max(column) - min(column), 4) for column in columns]
            rows.append([tower, rate, *map(str, means), *map(str, spreads)])
            sys.stderr.write(f"{rows[-1]}\n")
    head = ["tower", "embedding.lr", "AUC ctr", "AUC ctcvr", "ctr, max - min", "ctcvr, max - min"]
    sys.stdout.write(markdown(head, rows))
    return {}, results


def run(
    args: argparse.Namespace, tower: str, kind: str, *, seed: int, rate: float | None = None
) -> dict[str, Any]:
    """One run in a process of its own."""
    job = {
        "folder": str(args.folder.resolve()),
        "tower": tower,
        "kind": kind,
        "seed": seed,
        "rate": rate,
        "sequences": args.sequences,
        "threads": args.threads,
        "precision": args.precision,
    }
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
    }
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(job: dict[str, Any]) -> None:
    """Do a run and print what came of it."""
    begun = time.perf_counter()
    import torch

    torch.set_num_threads(job["threads"])
    found = bare_steps(job) if job["kind"] == "bare" else training(job, begun)
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def bare_steps(job: dict[str, Any]) -> dict[str, Any]:
    """The step with batches in memory, for some seconds."""
    import torch.distributed as dist
    from step import Ours, in_turn, prepared

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # it is public
    folder = Path(job["folder"])
    config, encoders, batches = prepared(
        folder, job["tower"], 4096, sequences=job["sequences"], ids="vocab: {{}}"
    )
    bf16 = job["precision"] == "bf16-mixed"
    steps = in_turn(Ours(config, encoders, bf16=bf16), batches)
    steps()
    rows, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < BARE_SECONDS:
        rows += steps()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rows_per_s": rows / wall, "cpu_us": 1e6 * cpu / rows}


def training(job: dict[str, Any], begun: float) -> dict[str, Any]:
    """`recmtl.train` and `recmtl.evaluate`; CPU time is that of the whole process until then."""
    import tempfile

    import recmtl
    from recmtl.run import Run

    folder = Path(job["folder"])
    text = spec(job["tower"], sequences=job["sequences"])
    path = folder / f"train_{job['tower']}.yaml"
    path.write_text(text.replace(", valid: test.parquet", ""), encoding="utf-8")
    overrides = [f"train.seed={job['seed']}", f"train.precision={job['precision']}"]
    if job["rate"] is not None:
        overrides.append(f"train.embedding.lr={job['rate']}")
    with tempfile.TemporaryDirectory() as out:
        result = recmtl.train(path, out=Path(out) / "run", overrides=overrides)
        whole_s, cpu = time.perf_counter() - begun, time.process_time()
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        tables = sum(Run(result.run).encoders.tables.values())
        metrics = recmtl.evaluate(result.run, folder / "test.parquet")
    rows = _num_rows(folder / "train.parquet")
    return {
        "rows_per_s": result.rows_per_s,
        "cpu_us": 1e6 * cpu / rows,
        "whole_s": whole_s,
        "peak_bytes": peak,
        "bound_bytes": 4 * tables * (DIM + 1) + GIB + GIB,
        "auc": _aucs(metrics),
    }


def _num_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _aucs(metrics: dict[str, Any]) -> dict[str, float]:
    return {task: float(metrics["tasks"][task]["auc"]) for task in ("ctr", "cvr", "ctcvr")}


if __name__ == "__main__":
    main()
