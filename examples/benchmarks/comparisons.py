"""Every tower beside single-task models and the additive model, on three data sets.

    python examples/benchmarks/comparisons.py CENSUS KUAIRAND --work runs/comparisons

CENSUS and KUAIRAND are folders with the owners' files. Each is one `recmtl compare` of the data
set's own spec, with experts as wide as its own tower's in every tower, judged on its test rows;
what was finished in an earlier call is not done again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from bench import ROOT, prepared, provenance, recmtl, simulated

TOWERS = "shared_bottom,mmoe,ple,esmm,home,dtrn"
WORLD = ("--rows", 400_000, "--seed", 1)


class DataSet(NamedTuple):
    """A spec, its files, and what is said of it."""

    name: str
    spec: Path
    data: Path
    widths: str
    """Of the experts of every tower that has experts: those of the spec's own."""
    words: str


def main() -> None:
    """Prepare the files, compare, and write a page for each data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("census", type=Path)
    parser.add_argument("kuairand", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="data sets that begin with this")
    parser.add_argument("--work", type=Path, default=Path("runs/comparisons"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    for data in data_sets(args):
        if not data.name.startswith(args.only):
            continue
        folder = args.work / f"compare_{data.name}"
        options = ("--data", data.data, "--test", data.data / "test.parquet", "--out", folder)
        sizes = (f"tower.expert_widths={data.widths}", "tower.dropout=0.2")
        options = (*options, "--towers", TOWERS, "--seeds", args.seeds, "--json", *sizes)
        recmtl("compare", data.spec, *options)
        page = (folder / "compare.md").read_text(encoding="utf-8").splitlines()
        head = [
            page[0],
            "",
            f"`python examples/benchmarks/comparisons.py CENSUS KUAIRAND --seeds {args.seeds}`, "
            f"{provenance()}.",
            "",
            data.words,
        ]
        text = "\n".join([*head, *page[1:]]) + "\n"
        text = text.replace(f"{ROOT}/", "").replace(f"{args.work}/", "WORK/")
        (args.out / f"compare_{data.name}.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)


def data_sets(args: argparse.Namespace) -> list[DataSet]:
    """The three; files that are missing are prepared."""
    funnel = simulated(args.work / "funnel", *WORLD)
    census = prepared("census_income", args.census, args.work / "census")
    kuairand = prepared("kuairand", args.kuairand, args.work / "kuairand")
    specs = ROOT / "feature_specs"
    return [
        DataSet(
            "simulator",
            funnel / "spec.yaml",
            funnel,
            "[128, 64]",
            "The simulated funnel of 400,000 rows as `recmtl simulate` writes it, with its spec; "
            "CVR is judged on clicked rows, all that a real log shows.",
        ),
        DataSet(
            "census_income",
            specs / "census_income.yaml",
            census,
            "[64, 32]",
            "The owner's test rows. There are no sequences, which DTRN needs.",
        ),
        DataSet(
            "kuairand",
            specs / "kuairand.yaml",
            kuairand,
            "[64]",
            "A small cut of the log; the test rows are its last days.",
        ),
    ]


if __name__ == "__main__":
    main()
