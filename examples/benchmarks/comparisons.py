"""Every tower beside single-task models and the additive model, on three data sets.

    python examples/benchmarks/comparisons.py CENSUS KUAIRAND --work runs/comparisons

CENSUS and KUAIRAND are folders with the owners' files. Each is one `recmtl compare` of the data
set's own spec, judged on its test rows; what was finished in an earlier call is not done again.
Experts are as wide as those of the spec's own tower in every tower, DTRN's head too, with its
dropout; tasks have groups, which HoME reads. What a tower has besides (how many experts, on how
many levels, ESMM's networks) is its default, so that towers differ in size: the table says by how
much.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from bench import ROOT, begin, prepared, provenance, recmtl, simulated

from recmtl.config import dump_yaml, load_spec

TOWERS = "shared_bottom,mmoe,ple,esmm,home,dtrn"
WORLD = ("--rows", 400_000, "--seed", 1)


class DataSet(NamedTuple):
    """A spec, its files, and what is said of it."""

    name: str
    spec: Path
    data: Path
    widths: str
    """Of experts: those of the spec's own tower."""
    groups: dict[str, str]
    """Task -> its group; the others are together."""
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
    begin(args.work)
    for data in data_sets(args):
        if not data.name.startswith(args.only):
            continue
        folder = args.work / f"compare_{data.name}"
        options = ("--data", data.data, "--test", data.data / "test.parquet", "--out", folder)
        head = f"{{kind: shared_bottom, expert_widths: {data.widths}, dropout: 0.2}}"
        sizes = (f"tower.expert_widths={data.widths}", "tower.dropout=0.2", f"tower.head={head}")
        options = (*options, "--towers", TOWERS, "--seeds", args.seeds, "--json", *sizes)
        recmtl("compare", grouped(data, args.work), *options)
        page = (folder / "compare.md").read_text(encoding="utf-8").splitlines()
        top = [
            page[0],
            "",
            f"`python examples/benchmarks/comparisons.py CENSUS KUAIRAND --seeds {args.seeds}`, "
            f"{provenance(args.work)}.",
            "",
            f"{data.words} Rows/s are of two trainings at a time, beside whatever else the machine"
            " did: [networks](networks.md) measures towers alone.",
        ]
        text = "\n".join([*top, *page[1:]]) + "\n"
        text = text.replace(f"{ROOT}/", "").replace(f"{args.work}/", "WORK/")
        (args.out / f"compare_{data.name}.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)


def grouped(data: DataSet, work: Path) -> Path:
    """The data set's spec with the groups of its tasks."""
    spec = load_spec(data.spec)
    tasks = tuple(
        task.model_copy(update={"group": data.groups.get(task.name, task.group)})
        for task in spec.tasks
    )
    file = work / f"{data.name}.yaml"
    file.write_text(dump_yaml(spec.model_copy(update={"tasks": tasks})), encoding="utf-8")
    return file


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
            {"ctr": "clicks", "cvr": "orders"},
            "The simulated funnel of 400,000 rows as `recmtl simulate` writes it, with its spec; "
            "CVR is judged on clicked rows, all that a real log shows.",
        ),
        DataSet(
            "census_income",
            specs / "census_income.yaml",
            census,
            "[64, 32]",
            {"income": "work", "never_married": "family"},
            "The owner's test rows. There are no sequences, which DTRN needs.",
        ),
        DataSet(
            "kuairand",
            specs / "kuairand.yaml",
            kuairand,
            "[64]",
            {"is_click": "watching", "long_view": "watching"},
            "A small cut of the log; the test rows are its last days.",
        ),
    ]


if __name__ == "__main__":
    main()
