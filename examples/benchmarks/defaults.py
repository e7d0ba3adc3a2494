"""What holds tables back from learning the training rows by heart: settings on several data sets.

    python examples/benchmarks/defaults.py CENSUS KUAIRAND --work runs/defaults

CENSUS and KUAIRAND are folders with the owners' files. Every run is `recmtl train` of the data
set's own spec with the setting's keys changed, in a process of its own; one that is finished is not
trained again. Only training and validation rows are read: no test row is looked at. A setting's
figure is the mean over tasks of the validation AUC, after each epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from bench import ROOT, begin, prepared, provenance, simulated, train_once

from recmtl.config import load_spec

mpl.use("Agg")
import matplotlib.pyplot as plt

EPOCHS = 8
FUNNELS = {"funnel, 100,000 rows": (100_000, 11), "funnel, 400,000 rows": (400_000, 12)}
TASKS = {
    "funnel": ("ctr", "ctcvr"),
    "census_income": ("income", "never_married"),
    "kuairand": ("is_click", "long_view", "is_like", "is_follow"),
}
"""Whose AUC counts: binary tasks of all rows with at least some hundred positives to judge on."""
NOTHING = "train.embedding.prior=0"
SLOWER = "half the spec's train.embedding.lr"
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "nothing": (NOTHING,),
    "l2 .001 on lookups": (NOTHING, "train.embedding.l2=0.001"),
    "l2 .01 on lookups": (NOTHING, "train.embedding.l2=0.01"),
    "dropout .4": (NOTHING, "tower.dropout=0.4"),
    "half the learning rate of tables": (NOTHING, SLOWER),
    "prior 3": ("train.embedding.prior=3",),
    "prior 10": ("train.embedding.prior=10",),
    "prior 30": ("train.embedding.prior=30",),
    "prior 50": ("train.embedding.prior=50",),
    "prior 100": ("train.embedding.prior=100",),
    "prior 30, initial scale .1": ("train.embedding.prior=30", "train.embedding.init_scale=0.1"),
    "fwfm beside": (NOTHING, "wide=fwfm"),
    "prior 30, fwfm beside": ("train.embedding.prior=30", "wide=fwfm"),
    "prior 30, dcnv2 below": ("train.embedding.prior=30", "interaction=dcnv2"),
    "prior 30, attention": ("train.embedding.prior=30", "sequence=din"),
}
"""Changes of each data set's spec, after `COMMON`."""
COMMON = ("wide=none", f"train.epochs={EPOCHS}")


CHOSEN = """
## What was chosen, and why

Figures are of one training seed for each data set and world. Seeds move the mean of the funnels'
two AUCs by about .002 ([three of each](compare_simulator.md)): less than .004 between two settings
there is no finding.

- **Tables learn the log by heart.** With nothing against it, the best epoch is the first on the
  small funnel, the third on the large one and the second on KuaiRand, and by the eighth .047, .016
  and .007 are lost. A penalty at each lookup and slower tables do not help: at their best they are
  behind `nothing` on all three. Dropout of .4 costs both funnels, .016 and .006; on KuaiRand it
  gains .002 and the last epoch is its best.
- **The prior does**, which counts each id once. On the funnels further epochs then help, up to the
  third to the eighth, the best one is .011 to .025 better, and the eighth loses at most .015 of it
  where the prior is 30 or more. On KuaiRand it gains .005 at 100 (best in the sixth epoch); up to
  50 it gains .003 or less. How much is best differs: 30 on the small funnel, 50 and 100 alike
  on the large one. The funnel's spec has 50, KuaiRand's 100.
- **It is no default.** Where values are few and rare ones say much (Census-Income looks numbers up
  like categories) every prior costs, .001 at 3 to .004 at 100, and in the first epoch, which is all
  that the default trains, it slows tables down (the figure). Census-Income's spec has none.
- **The rest is small, or goes both ways.** To a prior of 30 a smaller initial scale adds between
  -.001 and +.002, FwFM beside the tower between -.003 and +.001 (the funnel's spec has it), cross
  layers between -.006 and +.001, and attention nothing on the funnels and -.009 on KuaiRand.
""".strip()


class DataSet(NamedTuple):
    """A spec, and where its files are."""

    name: str
    spec: Path
    data: Path
    tasks: tuple[str, ...]


def main() -> None:
    """Prepare the files, train what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("census", type=Path)
    parser.add_argument("kuairand", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--only", default="", help="data sets that begin with this")
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    begin(args.work)
    sets = [s for s in data_sets(args) if s.name.startswith(args.only)]
    jobs = [
        (data, name, seed)
        for seed in range(args.seeds)
        for data in sets
        for name in settings_of(data)
    ]

    def curve(job: tuple[DataSet, str, int]) -> list[dict[str, float]]:
        data, name, seed = job
        folder = args.work / "runs" / slug(data.name) / f"{slug(name)}-{seed}"
        keys = [*COMMON, *settings_of(data)[name], f"train.seed={seed}"]
        train_once(folder, data.spec, "--data", data.data, *keys)
        sys.stderr.write(f"{data.name}: {name}, seed {seed}\n")
        return epochs_of(folder, data.tasks)

    with ThreadPoolExecutor(args.jobs) as pool:
        curves = dict(zip(jobs, pool.map(curve, jobs), strict=True))
    write_page(sets, curves, args)


def data_sets(args: argparse.Namespace) -> list[DataSet]:
    """All data sets; what is missing is prepared."""
    found = []
    for name, (rows, seed) in FUNNELS.items():
        folder = simulated(args.work / slug(name), "--rows", rows, "--seed", seed)
        found.append(DataSet(name, folder / "spec.yaml", folder, TASKS["funnel"]))
    public = (
        ("Census-Income", "census_income", args.census),
        ("KuaiRand", "kuairand", args.kuairand),
    )
    for name, short, raw in public:
        spec = ROOT / "feature_specs" / f"{short}.yaml"
        found.append(DataSet(name, spec, prepared(short, raw, args.work / short), TASKS[short]))
    return found


def settings_of(data: DataSet) -> dict[str, tuple[str, ...]]:
    """The settings that the data set can feed."""
    spec = load_spec(data.spec)
    slower = f"train.embedding.lr={0.5 * spec.train.embedding.lr:g}"
    has_sequences = any(feature.type == "sequence" for feature in spec.features)
    return {
        name: tuple(slower if key == SLOWER else key for key in keys)
        for name, keys in SETTINGS.items()
        if has_sequences or "sequence=din" not in keys
    }


def epochs_of(run: Path, tasks: tuple[str, ...]) -> list[dict[str, float]]:
    """Each epoch's validation AUC of each task."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {task: line[f"valid/{task}/auc"] for task in tasks}
        for line in lines
        if f"valid/{tasks[0]}/auc" in line
    ]


def write_page(
    sets: list[DataSet],
    curves: dict[tuple[DataSet, str, int], list[dict[str, float]]],
    args: argparse.Namespace,
) -> None:
    """The tables, and the curves over epochs."""
    lines = [
        "# Defaults of training",
        "",
        f"`python examples/benchmarks/defaults.py CENSUS KUAIRAND --seeds {args.seeds}`, "
        f"{provenance(args.work)}.",
        "",
        f"Each data set's own spec with nothing beside its tower, {EPOCHS} epochs. Validation AUC,"
        " mean over tasks and seeds: at the best epoch (which one in brackets, from 1), after the"
        " last, and the difference of the best ones to `nothing` with its standard error over"
        " seeds, if there are several. No test row was read.",
    ]
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.6), layout="constrained")
    for data, axis in zip(sets, np.atleast_1d(axes), strict=True):
        lines += ["", f"## {data.name}: {', '.join(data.tasks)}", ""]
        lines += ["| setting | best | last | against nothing |", "|---|---|---|---|"]
        base_S = None
        for name in settings_of(data):
            runs = [curves[(data, name, seed)] for seed in range(args.seeds)]
            auc_SE = np.array([[np.mean(list(e.values())) for e in run] for run in runs])
            best_S = auc_SE.max(axis=1)
            base_S = best_S if base_S is None else base_S
            gain_S = best_S - base_S
            gain = f"{gain_S.mean():+.4f}"
            if len(gain_S) > 1:
                gain += f" ± {gain_S.std(ddof=1) / len(gain_S) ** 0.5:.4f}"
            epoch = int(auc_SE.mean(axis=0).argmax()) + 1
            lines.append(
                f"| {name} | {best_S.mean():.4f} ({epoch}) | {auc_SE[:, -1].mean():.4f} | {gain} |"
            )
            if name in ("nothing", "l2 .01 on lookups", "prior 10", "prior 30", "prior 100"):
                epochs = np.arange(1, auc_SE.shape[1] + 1)
                axis.plot(epochs, auc_SE.mean(axis=0), marker=".", label=name)
        axis.set(title=data.name, xlabel="epoch")
    np.atleast_1d(axes)[0].set_ylabel("validation AUC, mean over tasks")
    np.atleast_1d(axes)[-1].legend(fontsize=8)
    figure.savefig(args.out / "defaults.png", dpi=110)
    lines += ["", "![Validation AUC over epochs](defaults.png)", "", CHOSEN]
    text = "\n".join(lines) + "\n"
    (args.out / "defaults.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def slug(name: str) -> str:
    """A name as a folder's."""
    return "".join(c if c.isalnum() or c == "." else "_" for c in name.lower())


if __name__ == "__main__":
    main()
