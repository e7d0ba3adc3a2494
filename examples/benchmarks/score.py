"""Inference and scoring from Parquet to Parquet, beside the same networks as peers write them.

    python examples/benchmarks/score.py runs/workload --out score.json

A run is trained once for each tower. `peer` is its network with one `nn.Embedding` a field, a list
of experts and loops over tasks, in batches that are encoded already, with equal outputs;
`inference` is ours on the same rows; `score` reads a log, encodes it, scores it and writes it. What
int8 and fp16 tables cost in AUC is stated. `--quick` is MMoE with one thread.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch
import workload
from bench import provenance, train_once
from peer_net import PeerNet
from rounds import Timing, alternate, markdown, paired_ratio, write_result

from recmtl import checkpoint, score
from recmtl.data import EncodeCounts, open_log
from recmtl.data.cutting import cut_rows
from recmtl.metrics import auc
from recmtl.scoring import BatchScorer
from recmtl.scoring.writer import PART_ROWS

BATCH = 4096
INFERRED_ROWS = 1 << 18
MOST_APART = 1e-5
"""Probabilities of equal networks."""


def main() -> None:
    """Measure every tower with every number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--rows", type=int, default=1 << 20, help="rows of the log, if not there")
    parser.add_argument("--runs", type=Path, help="runs, trained if not there (default: beside it)")
    parser.add_argument("--scored", type=int, default=1 << 20, help="rows from Parquet to Parquet")
    towers = list(workload.TOWERS)
    parser.add_argument("--towers", nargs="+", default=towers, choices=towers)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each tower and threads")
    parser.add_argument("--quick", action="store_true", help="MMoE, one thread, three rounds")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    args = parser.parse_args()
    if args.quick:
        args.towers, args.threads, args.rounds = ["mmoe"], [1], 3
        args.scored = 1 << 18
    workload.write(args.folder, args.rows)
    log = args.folder / f"scored-{args.scored}.parquet"
    if not log.is_file():
        train = pl.read_parquet(args.folder / "train.parquet", n_rows=args.scored)
        train.write_parquet(log, row_group_size=workload.GROUP_ROWS)
    sys.stdout.write(f"{provenance()}\n\n")
    timings: dict[str, Timing] = {}
    speeds, phases, costs = [], [], []
    for tower in args.towers:
        run = (args.runs or args.folder / "runs") / tower
        train_once(run, args.folder / f"{tower}.yaml")
        costs += [(tower, *cost) for cost in cost_of_tables(run, args.folder / "test.parquet")]
        phases.append((tower, *phases_of(run, log).values()))
        for threads in args.threads:
            torch.set_num_threads(threads)
            found = measure(run, log, rounds=args.rounds, seconds=args.seconds)
            speeds += [(tower, threads, *row) for row in compared(found)]
            timings |= {f"{tower}/{threads}/{name}": timing for name, timing in found.items()}
        torch.set_num_threads(1)
    head = ["tower", "threads", "what", "rows/s", "wall µs/row", "CPU µs/row"]
    head += ["noise", "times peer, wall", "times peer, CPU", "share of inference"]
    sys.stdout.write(markdown(head, speeds) + "\n")
    names = ["tower", *(f"{name}, CPU µs/row" for name in PHASES)]
    sys.stdout.write(markdown(names, phases) + "\n")
    head = ["tower", "tables", "AUC ctr", "AUC ctcvr", "change", "change", "max |dp|", "mean |dp|"]
    sys.stdout.write(markdown(head, costs))
    if args.out is not None:
        write_result(
            args.out,
            about=provenance(),
            timings=timings,
            phases=phases,
            costs=costs,
            speeds=speeds,
        )


def measure(run: Path, log: Path, *, rounds: int, seconds: float) -> dict[str, Timing]:
    """The peers' form, ours, and scoring from file to file, in turns."""
    scorers = {tables: BatchScorer(run, keep=(), tables=tables) for tables in ("fp32", "int8")}
    ours = scorers["fp32"]
    frame = pl.read_parquet(log, n_rows=INFERRED_ROWS)
    batch = ours.encoders.encode(frame, labels=False)
    peer = PeerNet(ours.net, checkpoint.load_full(_checkpoint(run), "tables/", "/weight")).eval()
    inputs = [peer.columns(part) for part in cut_rows(batch, _sizes(len(batch)))]

    @torch.no_grad()
    def of_peer() -> torch.Tensor:
        return torch.cat([peer(*columns) for columns in inputs])

    def inference(tables: str) -> torch.Tensor:
        return ours.tasks.probs(scorers[tables].logits(batch))

    apart = (of_peer() - inference("fp32")[:, : len(ours.tasks.heads)]).abs().max()
    if apart > MOST_APART:
        raise ValueError(f"{run}: the peers' form is another network: {apart:g} apart.")

    def rows(work: Callable[[], object]) -> Callable[[], int]:
        def timed() -> int:
            work()
            return len(batch)

        return timed

    def from_file(tables: str) -> int:
        with _folder() as out:
            return score(run, log, out, tables=tables).rows  # type: ignore[arg-type]

    contestants = {
        "peer": rows(of_peer),
        "inference": rows(lambda: inference("fp32")),
        "inference int8": rows(lambda: inference("int8")),
        "score": lambda: from_file("fp32"),
        "score int8": lambda: from_file("int8"),
    }
    return alternate(contestants, rounds=rounds, seconds=seconds)


def compared(found: dict[str, Timing]) -> Iterator[tuple[object, ...]]:
    """One row of the table for each contestant."""
    for name, timing in found.items():
        alone = found.get(name.replace("score", "inference"))
        of_alone = paired_ratio(alone, timing) if alone and name.startswith("score") else ""
        yield (
            *(name, round(timing.rows_per_s), timing.wall, timing.cpu, timing.noise),
            *(paired_ratio(found["peer"], timing, cpu=cpu) for cpu in (False, True)),
            of_alone,
        )


PHASES = ("read", "encode", "first layers", "rest of the tower", "probs", "frame", "write")


def phases_of(run: Path, log: Path, rounds: int = 5) -> dict[str, float]:
    """CPU microseconds a row of each phase of scoring, one thread."""
    torch.set_num_threads(1)
    scorer = BatchScorer(run, keep=())
    columns = scorer.encoders.columns(labels=False)
    source = open_log(log, columns=scorer.encoders.wanted(labels=False))
    found: dict[str, list[float]] = {name: [] for name in PHASES}
    first = scorer.scoring_net.first
    assert first is not None
    for turn in range(-1, rounds):
        took = dict.fromkeys(PHASES, 0.0)

        @contextmanager
        def phase(name: str, took: dict[str, float] = took) -> Iterator[None]:
            begun = time.thread_time()
            yield
            took[name] += time.thread_time() - begun

        with phase("read"):
            frame = source.read(columns, 0, PART_ROWS)
        with phase("encode"):
            batch = scorer.encoders.encode(frame, labels=False, counts=EncodeCounts())
        logits = []
        with torch.inference_mode():
            for part in cut_rows(batch, _sizes(len(batch), scorer.scoring_net.rows)):
                with phase("first layers"):
                    wide = first(part)
                with phase("rest of the tower"):
                    logits.append(first.tower(wide))
        with phase("probs"):
            probs = scorer.tasks.probs(torch.cat(logits)).numpy()
        with phase("frame"):
            names = list(scorer.columns().values())
            scores = pl.DataFrame({name: probs[:, i] for i, name in enumerate(names)})
        with _folder() as out, phase("write"):
            scores.write_parquet(out / "part.parquet")
        if turn >= 0:
            for name, seconds in took.items():
                found[name].append(1e6 * seconds / len(batch))
    return {name: float(np.median(values)) for name, values in found.items()}


def cost_of_tables(run: Path, log: Path) -> Iterator[tuple[object, ...]]:
    """What smaller tables do to AUC and probabilities."""
    rows = pl.read_parquet(log)
    labels = {"probs_ctr": "click", "probs_ctcvr": "conversion"}
    exact: list[float] | None = None
    for tables in ("fp32", "fp16", "int8"):
        scores = BatchScorer(run, keep=(), tables=tables)(rows)  # type: ignore[arg-type]
        found = [auc(scores[name].to_numpy(), rows[of].to_numpy()) for name, of in labels.items()]
        probs = scores.to_numpy()
        if exact is None:
            exact, exact_probs = found, probs
        apart = np.abs(probs - exact_probs)
        lost = [f"{a - b:+.1e}" for a, b in zip(found, exact, strict=True)]
        rounded = [f"{value:.5f}" for value in found]
        yield tables, *rounded, *lost, f"{apart.max():.1e}", f"{apart.mean():.1e}"


def _checkpoint(run: Path) -> Path:
    return checkpoint.best(BatchScorer(run).run.checkpoints)


def _sizes(rows: int, batch: int = BATCH) -> list[int]:
    return [min(batch, rows - start) for start in range(0, rows, batch)]


@contextmanager
def _folder() -> Iterator[Path]:
    out = Path(tempfile.mkdtemp(prefix="recmtl-score-"))
    try:
        yield out
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
