"""How well batches are mixed where the log is larger than the budget, on logs in a bad order.

    python examples/benchmarks/shuffle.py --plot examples/benchmarks/results/shuffle.png

The order of an epoch is a function of (seed, epoch) and of sizes alone, so nothing is read here: a
log is a column of labels and the sizes of its row groups. Three logs are judged. *time*: the click
rate rises from 5 % to 15 % and swings by half of it within each of thirty days. *user*: the rows of
a user (50 on the average) stand together, and users differ (their logits have a standard deviation
of 1). *label*: all clicks (a tenth of the rows) stand at the end.

For each epoch: the autocorrelation of the batches' click rates at lags 1 to 20 (mean, and largest
absolute value), their spread over that of a perfect shuffle, and the mix of times: the mean over
batches of chi-square over degrees of freedom of the rows' twentieths of the log (1 in a perfect
shuffle, less where rows are spread more evenly than chance does). Each is compared with the central
95 % of perfect shuffles of the same labels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bench import provenance
from numpy.typing import NDArray

from recmtl.data.order import EpochOrder, Plan, plan

ROW_BYTES = 184.0
SHARES = (2, 10, 50)
GROUPS = (1_000, 10_000, 100_000, 1_000_000)
LOGS = ("time", "user", "label")
LAGS = 20
BINS = 20


class Mix(NamedTuple):
    """What is judged of an epoch."""

    mean: float
    """Mean autocorrelation of the batches' click rates at lags 1 to 20."""
    largest: float
    """The largest absolute one."""
    spread: float
    """Standard deviation of the click rates, over sqrt(p (1 - p) / batch size)."""
    times: float
    """Mean chi-square over degrees of freedom of the batches' twentieths of the log."""


def main() -> None:
    """Judge every setting and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--shuffles", type=int, default=400, help="perfect ones, to compare with")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    logs = {name: labels(name, args.rows) for name in LOGS}
    intervals = {name: perfect(label, args) for name, label in logs.items()}
    found = {}
    for share in SHARES:
        for group in GROUPS:
            made = plan_for(args.rows, group, share, args.batch_size)
            orders = [batches(made, seed) for seed in range(args.seeds)]
            for name, label in logs.items():
                found[share, group, name] = made, [judge(rows, label) for rows in orders]
                sys.stderr.write(line(share, group, name, *found[share, group, name], intervals))
    if args.plot is not None:
        plot(logs, args)
    sys.stdout.write(page(found, intervals, args))


def labels(name: str, rows: int) -> NDArray[np.float64]:
    """Clicks of a log in its order."""
    rng = np.random.default_rng(0)
    at = np.arange(rows) / rows
    if name == "time":
        rate = (0.05 + 0.1 * at) * (1 + 0.5 * np.sin(2 * np.pi * 30 * at))
    elif name == "user":
        logit = rng.normal(-2.5, 1.0, rows // 50)
        rate = np.sort(rng.integers(0, rows // 50, rows))
        rate = 1 / (1 + np.exp(-logit[rate]))
    else:
        return (at >= 0.9).astype(np.float64)
    return (rng.random(rows) < rate).astype(np.float64)


def plan_for(rows: int, group: int, share: int, batch_size: int) -> Plan:
    """The order's sizes for a budget of 1/`share` of the encoded log."""
    groups = np.full(-(-rows // group), group, np.int64)
    groups[-1] -= groups.sum() - rows
    memory = int(rows * ROW_BYTES / share)
    return plan(groups, streams=8, share=batch_size // 8, row_bytes=ROW_BYTES, memory_bytes=memory)


def batches(made: Plan, seed: int) -> NDArray[np.int64]:
    """Row numbers of all whole batches of the first epoch, one batch a line."""
    order = EpochOrder(made, seed, 0)
    streams = [stream(order, number) for number in range(made.streams)]
    whole = min(len(rows) for rows in streams) // made.share
    return np.concatenate(
        [rows[: whole * made.share].reshape(whole, made.share) for rows in streams], axis=1
    )


def stream(order: EpochOrder, number: int) -> NDArray[np.int64]:
    """Row numbers of a stream, as they are given out."""
    low, high = order.plan.stream_range(number)
    parts: list[NDArray[np.int64]] = []
    place = 0
    while place < high - low:
        pool, before = order.pool(number, place)
        rows = np.concatenate([order.rows_of(piece) for piece in pool.pieces])
        parts.append(rows[order.shuffled(number, pool)[before:]][: high - low - place])
        place += len(parts[-1])
    return np.concatenate(parts)


def judge(rows_KB: NDArray[np.int64], label: NDArray[np.float64]) -> Mix:
    """The figures of one epoch; K batches of B rows."""
    rate_K = label[rows_KB].mean(axis=1)
    correlations = autocorrelation(rate_K)
    p, size = label.mean(), rows_KB.shape[1]
    bins = rows_KB * BINS // len(label)
    counts = np.stack([(bins == b).sum(axis=1) for b in range(BINS)])
    chi = ((counts - size / BINS) ** 2 / (size / BINS)).sum(axis=0) / (BINS - 1)
    return Mix(
        float(correlations.mean()),
        float(np.abs(correlations).max()),
        float(rate_K.std() / np.sqrt(p * (1 - p) / size)),
        float(chi.mean()),
    )


def autocorrelation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At lags 1 to 20."""
    centred = values - values.mean()
    total = float(centred @ centred)
    return np.array([centred[:-lag] @ centred[lag:] / total for lag in range(1, LAGS + 1)])


def perfect(label: NDArray[np.float64], args: argparse.Namespace) -> tuple[Mix, Mix]:
    """The central 95 % of perfect shuffles."""
    rng = np.random.default_rng(1)
    whole = args.rows // args.batch_size
    found = np.array(
        [
            judge(rng.permutation(args.rows)[: whole * args.batch_size].reshape(whole, -1), label)
            for _ in range(args.shuffles)
        ]
    )
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return Mix(*low), Mix(*high)


# What came of it


def line(
    share: int,
    group: int,
    name: str,
    made: Plan,
    mixes: list[Mix],
    intervals: dict[str, tuple[Mix, Mix]],
) -> str:
    """A row of the table: means over seeds, and in how many of them a figure is within noise."""
    _, high = intervals[name]
    cells = []
    for field in Mix._fields:
        values = [getattr(mix, field) for mix in mixes]
        # Better than chance is no fault: only the upper bound counts.
        inside = sum(value <= getattr(high, field) for value in values)
        cells.append(f"{np.mean(values):.3f} ({inside}/{len(values)})")
    return (
        f"| 1/{share} | {group:,} | {name} | {made.pool_rows:,} | {made.reads} | "
        + " | ".join(cells)
        + " |\n"
    )


def page(
    found: dict[tuple[int, int, str], tuple[Plan, list[Mix]]],
    intervals: dict[str, tuple[Mix, Mix]],
    args: argparse.Namespace,
) -> str:
    """The tables in Markdown."""
    names = ("mean autocorrelation", "largest", "spread", "times")
    lines = [
        "# How well batches are mixed",
        "",
        f"`python examples/benchmarks/shuffle.py {' '.join(sys.argv[1:])}`, {provenance()}.",
        "",
        " ".join((__doc__ or "").split("\n\n", 2)[2].split()),
        "",
        f"{args.rows:,} rows of {ROW_BYTES:.0f} bytes, batches of {args.batch_size:,}, 8 streams.",
        "",
        "Perfect shuffles (central 95 %):",
        "",
        "| log | " + " | ".join(names) + " |",
        "|---|---|---|---|---|",
    ]
    for name, (low, high) in intervals.items():
        cells = [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Means over {args.seeds} seeds; in brackets, how many of them are not above the interval.",
        "",
        "| budget | row group | log | pool | reads | " + " | ".join(names) + " |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [line(*key, *value, intervals).strip() for key, value in found.items()]
    return "\n".join([*lines, *rows]) + "\n"


def plot(logs: dict[str, NDArray[np.float64]], args: argparse.Namespace) -> None:
    """Autocorrelation by lag at a tenth of the log, over the noise of perfect shuffles."""
    import matplotlib.pyplot as plt

    lags = np.arange(1, LAGS + 1)
    noise = 1.96 / np.sqrt(args.rows // args.batch_size)
    figure, axes = plt.subplots(1, len(logs), figsize=(11, 3), sharey=True)
    for axis, (name, label) in zip(axes, logs.items(), strict=True):
        axis.axhspan(-noise, noise, color="#dde5ee", label="95 % of perfect shuffles")
        for group in GROUPS:
            made = plan_for(args.rows, group, 10, args.batch_size)
            each = [
                autocorrelation(label[batches(made, seed)].mean(axis=1))
                for seed in range(args.seeds)
            ]
            axis.plot(lags, np.mean(each, axis=0), lw=1, label=f"row groups of {group:,}")
        axis.set(title=f"sorted by {name}", xlabel="lag in batches")
    axes[0].set_ylabel("autocorrelation of click rates")
    axes[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(args.plot, dpi=110)


if __name__ == "__main__":
    main()
