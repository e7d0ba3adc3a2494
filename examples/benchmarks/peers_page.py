"""The page of `peers.py`, from what was measured: targets first, then every figure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from peers_processes import PEERS
from rounds import Timing, markdown, paired_ratio

__all__ = ["FIT_ROWS", "page"]

FIT_ROWS = 524_288
"""Rows of a training from Parquet."""

Known = Mapping[str, dict[str, Any]]

NOTES = """
## What differs, and in whose favour

- All contestants run the same torch, 328 inputs, 8 experts 128-64, heads 32-1, Adam 1e-3, one
  epoch, batches of 4096 in shuffled order. Tables have 2,389,940 rows of 16 numbers in all; in
  training from Parquet ours have only those that the vocabularies found in the rows.
- Bare steps and forward passes cycle over rows in memory, as tensors: ours over shuffled batches of
  the whole log, peers over its first rows. Peers step as their trainers do, with what those read of
  the loss; ours without a Trainer. In training from Parquet all have their trainers.
- Peers take ids as they are. In training ours fits a vocabulary of each column first and looks
  every id up, checks the data, and writes checkpoints: all of that is in its figures. In predicting
  it hashes them. Imports are in nobody's.
- Forward: torch-rechub's network has batch norms, ours has none; `score.py` compares equal ones.
- Nobody validates, except FuxiCTR, whose `fit` must: one batch.
- torch-rechub has a BatchNorm after every linear layer, gates included, and no switch for it; its
  trainer's default weight decay (1e-5) is kept. Its ESMM takes no dense features, looks every id up
  three times and has no loss of its own for CVR.
- DeepCTR-Torch adds L2 of the whole tables to the loss by default (1e-5), which is kept; metrics
  after each step, which its examples compute, are left out.
- FuxiCTR ships no MMoE in its wheel: one is put together from its blocks. It clips the norm of all
  gradients, and reads NPZ, which is written first.
- NextRec clips the norm of all gradients, and keeps all predictions for the AUC of training.
- Tables learn by row-wise Adagrad here and by Adam there.
- `ours, bf16` is `train.precision: bf16-mixed`, `ours, int8` is `score --tables int8`; peers run in
  float32.
- A run of ours has costs that do not grow with rows, so that more rows make a row cheaper.
- `NextRec, frame` predicts a pandas frame, as its guide does; `NextRec` a path, which it streams.
- CPU time is that of all threads and child processes. With one thread, a row's CPU time depends
  little on who else is busy on the machine; wall time does.
"""


def page(known: Known) -> str:
    """Markdown."""
    places: dict[str, list[str]] = {}
    for entry in known.values():
        commit, _, place = entry["where"].removeprefix("commit ").partition(", ")
        places.setdefault(place, []).append(commit)
    pins = [wanted for peer in PEERS.values() for wanted in peer.requirements if "==" in wanted]
    parts = [
        "# The same work on other packages\n",
        "`python examples/benchmarks/peers.py` (resumable; `--quick`: torch-rechub and MMoE).\n",
        *(
            f"- commit {', '.join(dict.fromkeys(commits))}; {place}\n"
            for place, commits in places.items()
        ),
        f"- {', '.join(pins)}, each on that torch\n",
        *_load(known),
        "\n## Targets\n",
        markdown(["target", "least", "aim", "found", "met"], _targets(known)),
        "\n## Training step, batches in memory\n",
        "µs/row: median of rounds. Noise: half the distance of the quartiles of CPU time. Ratio: "
        "median of the rounds' ratios to ours, by CPU time and by wall time.\n",
        markdown(_TURNS, _turns(known, "step")),
        "\n## Where a step's time goes: MMoE, batch 4096, 1 thread\n",
        "CPU µs/row of the table above, divided as the profiler of torch divides it.\n",
        _profile(known),
        "\n## From Parquet to a trained MMoE, 1 thread\n",
        "CPU µs/row: median over seeds; ± is the standard deviation over them.\n",
        markdown(_FITS, _fits(known)),
        "\n## Scoring\n",
        "Forward: batches in memory to probabilities. Predict: 1,048,576 rows from Parquet to "
        "Parquet (`--quick`: 131,072), ours from the run on disk.\n",
        markdown(_TURNS, [*_turns(known, "forward"), *_turns(known, "predict")]),
        NOTES,
    ]
    return "\n".join(parts)


_TURNS = ["", "who", "µs/row", "CPU µs/row", "noise", "rounds", "CPU / ours", "wall / ours"]
_FITS = ["rows", "batch", "who", "seeds", "CPU µs/row", "/ ours", "AUC click", "AUC CTCVR"]


def _load(known: Known) -> Iterator[str]:
    loads = [entry["load"] for entry in known.values() if "load" in entry]
    if loads:
        least, most = min(loads), max(loads)
        yield f"- load average of the machine when a measurement began: {least:.1f} to {most:.1f}\n"


def _targets(known: Known) -> Iterator[list[object]]:
    steps = {
        ("mmoe", 4096): (3.8, 5.0),
        ("mmoe", 1024): (9.0, 12.0),
        ("shared_bottom", 4096): (10.0, 13.0),
        ("esmm", 4096): (10.0, 13.0),
        ("ple", 4096): (2.6, 3.5),
    }
    for (tower, batch), (least, aim) in steps.items():
        for threads in (1, 2):
            what = f"step, {tower}, {batch}, {threads} thread{'s' * (threads - 1)}: torch-rechub"
            key = f"step/{tower}/{batch}/{threads}"
            yield _judged(what, least, aim, _ratio(known, key, "torch-rechub"))
    fits = _by_contestant(known)
    for rows in sorted({rows for rows, batch, _ in fits if batch == 4096}):
        against = (("torch-rechub", 6.0, 8.0), ("NextRec", 8.0, 12.0))
        for form, (name, least, aim) in itertools.product(("ours", "ours, bf16"), against):
            ours, theirs = fits.get((rows, 4096, form), []), fits.get((rows, 4096, name), [])
            found = _median(theirs, "cpu_us") / _median(ours, "cpu_us") if ours and theirs else None
            what = f"training from Parquet, {rows:,} rows, CPU{form.removeprefix('ours')}: {name}"
            yield _judged(what, least, aim, found)
            for task in ("click", "CTCVR") if ours and theirs else ():
                mine, other = _auc(ours, task), _auc(theirs, task)
                gap = statistics.mean(mine) - statistics.mean(other)
                met = "yes" if gap >= 0 else "no"
                yield [f"  AUC of {task} less {name}'s", "0", "", f"{gap:+.4f}", met]
    for tower in ("mmoe", "ple", "esmm", "shared_bottom"):
        for form, least in (("ours", 1.4), ("ours, int8", 1.7)):
            found = _ratio(known, f"forward/{tower}/4096/1", "torch-rechub", beside=form)
            what = f"forward, {tower}, 1 thread{form.removeprefix('ours')}: torch-rechub"
            yield _judged(what, least, None, found)
    peers = (("torch-rechub", 4.0), ("NextRec", 20.0), ("NextRec, frame", 20.0))
    for form, (name, least) in itertools.product(("ours", "ours, int8"), peers):
        found = _ratio(known, "predict/mmoe/1", name, beside=form)
        what = f"Parquet to Parquet{form.removeprefix('ours')}: {name}"
        yield _judged(what, least, None, found)


def _judged(what: str, least: float, aim: float | None, found: float | None) -> list[object]:
    met = "not measured" if found is None else "yes" if found >= least else "no"
    if met == "yes" and aim is not None and found is not None and found >= aim:
        met = "yes, the aim too"
    cells = [f"{value:.1f}" if value is not None else "" for value in (least, aim)]
    return [what, *cells, "" if found is None else f"{found:.2f}", met]


def _ratio(
    known: Known, key: str, name: str, *, beside: str = "ours", cpu: bool = True
) -> float | None:
    timings = known.get(key, {}).get("timings", {})
    if name not in timings or beside not in timings:
        return None
    return paired_ratio(Timing(**timings[name]), Timing(**timings[beside]), cpu=cpu)


def _turns(known: Known, kind: str) -> Iterator[list[object]]:
    for key in sorted(k for k in known if k.startswith(f"{kind}/")):
        for name, times in known[key]["timings"].items():
            timing = Timing(**times)
            ratios: list[object] = ["", ""]
            if name != "ours":
                found = [_ratio(known, key, name, cpu=cpu) for cpu in (True, False)]
                ratios = [f"{ratio:.2f}" for ratio in found if ratio is not None]
            yield [
                key.replace("/", " "),
                name,
                timing.wall,
                timing.cpu,
                f"{100 * timing.cpu_noise:.0f} %",
                len(timing.cpu_us),
                *ratios,
            ]


def _profile(known: Known) -> str:
    shares = known.get("profile/mmoe/4096/1", {}).get("shares", {})
    timings = known.get("step/mmoe/4096/1", {}).get("timings", {})
    names = [name for name in shares if name in timings]
    if "torch-rechub" not in names:
        return ""
    spent = {
        name: {kind: share * Timing(**timings[name]).cpu for kind, share in shares[name].items()}
        for name in names
    }
    kinds = sorted(
        {kind for found in spent.values() for kind in found},
        key=lambda kind: -spent["torch-rechub"].get(kind, 0.0),
    )
    table = markdown(
        ["", *names], [[kind, *(spent[n].get(kind, 0.0) for n in names)] for kind in kinds]
    )
    floor = spent["ours"]["matrix products"]
    bound = Timing(**timings["torch-rechub"]).cpu / floor
    trained = _by_contestant(known).get((FIT_ROWS, 4096, "torch-rechub"))
    of_fit = f" and {_median(trained, 'cpu_us') / floor:.1f} times its training" if trained else ""
    return table + (
        f"\nMatrix products alone take {floor:.1f} µs/row here. A step of nothing else would be "
        f"{bound:.1f} times as fast as torch-rechub's{of_fit}: at this rate of products, no more "
        "is to be had.\n"
    )


def _fits(known: Known) -> Iterator[list[object]]:
    fits = _by_contestant(known)
    for (rows, batch, name), entries in sorted(fits.items(), key=lambda item: item[0][:2]):
        mine = fits.get((rows, batch, "ours"))
        ratio = f"{_median(entries, 'cpu_us') / _median(mine, 'cpu_us'):.2f}" if mine else ""
        areas = [_auc(entries, task) for task in ("click", "CTCVR")]
        cells = [f"{statistics.mean(found):.4f}{_deviation(found)}" for found in areas]
        yield [rows, batch, name, len(entries), _median(entries, "cpu_us"), ratio, *cells]


def _by_contestant(known: Known) -> dict[tuple[int, int, str], list[dict[str, Any]]]:
    found: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for key, entry in known.items():
        if key.startswith("fit/"):
            _, rows, batch, name, _ = key.split("/")
            found.setdefault((int(rows), int(batch), name), []).append(entry)
    return found


def _median(entries: list[dict[str, Any]], field: str) -> float:
    return statistics.median(entry[field] for entry in entries)


def _auc(entries: list[dict[str, Any]], task: str) -> list[float]:
    return [entry["auc"][task] for entry in entries]


def _deviation(found: list[float]) -> str:
    return f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
