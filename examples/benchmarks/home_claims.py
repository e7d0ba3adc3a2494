"""HoME's claims, measured: what its experts and gates look like beside those of a ReLU MMoE.

    python examples/benchmarks/home_claims.py --rows 400000 --seeds 3 --work runs/home

On the simulated funnel, with CTR and CVR in groups of their own: an MMoE with ReLU, a PLE, HoME,
and HoME with one of its parts switched off. Of each: the share of activations that are zero, how
unequal the experts' outputs spread, how many experts a gate uses, and the AUC of the test rows.
Every run is `recmtl train` in a process of its own; one that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from bench import begin, provenance, recmtl, train_once
from matplotlib.figure import Figure
from rounds import markdown
from sklearn.metrics import roc_auc_score

from recmtl import BatchScorer
from recmtl.analysis.experts import expert_health

SIZES = "expert_widths: [128, 64], head_widths: [32], dropout: 0.2"
SETTINGS = {
    "MMoE, ReLU": f"{{kind: mmoe, num_experts: 4, {SIZES}}}",
    "PLE, ReLU": f"{{kind: ple, num_shared_experts: 2, num_task_experts: 1, {SIZES}}}",
    "HoME": f"{{kind: home, {SIZES}}}",
    "HoME with ReLU": f"{{kind: home, activation: relu, {SIZES}}}",
    "HoME without norm": f"{{kind: home, norm: none, {SIZES}}}",
    "HoME without norm, ReLU": f"{{kind: home, norm: none, activation: relu, {SIZES}}}",
    "HoME without hierarchy": f"{{kind: home, hierarchy: false, {SIZES}}}",
    "HoME without feature-gates": f"{{kind: home, feature_gates: false, {SIZES}}}",
    "HoME without self-gates": f"{{kind: home, self_gates: false, {SIZES}}}",
}
ANALYSED = 8192
"""Test rows whose experts and gates are looked at."""


def main() -> None:
    """Simulate, train what is missing, look, and write the page and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--work", type=Path, default=Path("runs/home"))
    results = Path(__file__).parent / "results"
    parser.add_argument("--result", type=Path, default=results / "home.md")
    args = parser.parse_args()
    begin(args.work)
    spec = world(args.work / f"data-{args.rows}", args.rows)
    test = pl.read_parquet(spec.parent / "test.parquet")
    found = {
        name: [look(args.work, spec, tower, seed, test) for seed in range(args.seeds)]
        for name, tower in SETTINGS.items()
    }
    figure = args.result.with_suffix(".svg")
    draw(found, figure)
    page = as_page(found, args, figure.name)
    args.result.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


def world(folder: Path, rows: int) -> Path:
    """The log, and its spec with groups."""
    spec = folder / "groups.yaml"
    if not spec.is_file():
        recmtl("simulate", folder, "--rows", rows, "--seed", 1, "--overwrite")
        text = (folder / "spec.yaml").read_text(encoding="utf-8")
        for task, group in (("ctr,  ", "clicks"), ("cvr,  ", "orders")):
            line = f"name: {task} label: "
            if line not in text:
                raise ValueError(f"{folder / 'spec.yaml'}: expected `{line}`.")
            text = text.replace(line, f"name: {task} group: {group}, label: ")
        spec.write_text(text, encoding="utf-8")
    return spec


def look(work: Path, spec: Path, tower: str, seed: int, test: pl.DataFrame) -> dict[str, Any]:
    """What one run's experts and gates are like, and its AUC."""
    safe = "".join(c if c.isalnum() else "_" for c in tower)
    run = work / f"{safe}-{seed}"
    train_once(run, spec, f"tower={tower}", f"train.seed={seed}")
    scorer = BatchScorer(run, keep=())
    scores = scorer(test)
    levels, _ = expert_health(scorer.net, scorer.encoders.encode(test.head(ANALYSED), labels=False))
    gates = [gate["of_rows"] for level in levels for gate in level["effective"].values()]
    return {
        "zero_share": [share for level in levels for share in level["zero_share"]],
        "spread_ratio": max(level["spread_ratio"] or np.inf for level in levels),
        "effective": gates,
        "reads": [reads for level in levels for reads in level["reads"].values()],
        "unused": sum(len(level["unused"]) for level in levels),
        "ctr": roc_auc_score(test["click"], scores["probs_ctr"]),
        "ctcvr": roc_auc_score(test["conversion"], scores["probs_ctcvr"]),
    }


def as_page(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace, figure: str) -> str:
    """The table in Markdown, with what is needed to repeat it."""

    def spread(values: list[float]) -> str:
        deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        return f"{np.mean(values):.4f} ± {deviation:.4f}"

    lines = []
    for name, runs in found.items():
        shares = [share for run in runs for share in run["zero_share"]]
        used = [
            e / r
            for run in runs
            for e, r in zip(run["effective"], run["reads"], strict=True)
            if r > 1
        ]
        lines.append(
            [
                name,
                f"{max(shares):.3f}",
                f"{np.mean(shares):.3f}",
                f"{max(run['spread_ratio'] for run in runs):.2f}",
                f"{min(used):.2f}",
                f"{np.mean(used):.2f}",
                sum(run["unused"] for run in runs),
                spread([run["ctr"] for run in runs]),
                spread([run["ctcvr"] for run in runs]),
            ]
        )
    head = ["network", "most zeros of an expert", "zeros", "spread, largest over least"]
    head += ["least used gate", "gates", "unused experts", "CTR AUC", "CTCVR AUC"]
    command = f"--rows {args.rows} --seeds {args.seeds}"
    return f"""# HoME's claims

`python examples/benchmarks/home_claims.py {command}`, {provenance(args.work)}.

The simulated funnel, {args.rows:,} impressions, CTR and CVR in groups of their own, {args.seeds}
training seeds; experts and gates on {ANALYSED:,} test rows. *zeros*: share of an expert's outputs
that are exactly zero, the worst expert of all seeds and the mean; Swish has none by its form,
whatever an expert is worth. *spread*: standard deviation of
the outputs of the widest expert of a level over that of the narrowest, the worst level. *gates*:
effective number of experts of a row's weights (exponential of their entropy) over the number that
the gate reads, the least and the mean: 1 is an equal mixture. AUC: mean ± standard deviation.

{markdown(head, lines)}
![share of zeros and spread of each expert]({figure})
"""


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Each expert's share of zeros, a dot an expert and seed."""
    with mpl.rc_context({"svg.hashsalt": "recmtl", "font.size": 8}):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
        for place, runs in enumerate(reversed(found.values())):
            shares = [share for run in runs for share in run["zero_share"]]
            axes.plot(shares, [place] * len(shares), "o", alpha=0.4, markersize=4, color="#2563eb")
        axes.set_yticks(range(len(found)), list(found)[::-1])
        axes.set_xlim(-0.02, 1.0)
        axes.set_xlabel("share of an expert's outputs that are exactly zero")
        axes.grid(axis="x", linewidth=0.5)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
