"""Kill training, scoring and the report at every point; compare what the same command then leaves.

    python examples/benchmarks/kills.py [--work runs/kills] [--only words]

Each command runs in a process of its own (a fork of one that has imported the package), which ends
itself at the named point with SIGKILL (or gets a signal there); then the same command runs to its
end, and what it left is compared with what an undisturbed one left. The table goes to
examples/benchmarks/results/kills.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from bench import ROOT, provenance

sys.path.insert(0, str(ROOT))

from tests.kill_points import REPORT, SCORE, SIGNALS, TEAM, TRAIN, Case
from tests.runs import leftovers, run_differences, score_differences
from tests.server import Server

SMALL = [
    *("tower=mmoe", "tower.num_experts=2", "tower.expert_widths=[16]", "tower.head_widths=[8]"),
    *("train.batch_size=64", "train.epochs=2", "train.checkpoint_every_steps=5"),
]
SERVER = Server()
RUN = "metrics, summary, index, every byte of checkpoints"
SCORES = "every byte of parts and manifest"

INTRO = """
Two epochs of 75 steps of an MMoE on 4,800 rows, a checkpoint every 5 steps, a line of losses every
3; scores of three parts. Each row is one command that was ended at that point and then repeated.
Compared with an undisturbed one, to the last bit: `metrics.jsonl`, the metrics of the best
checkpoint, `validation.json`, the index, and every byte of the best and the last checkpoint;
of scores, every byte of every part and of the manifest. "Left" counts temporary files and folders
of the killed processes that remain after the repeated command. What may differ is `rows_per_s`, and
`versions.json`, which lists every start.
""".strip()


def main() -> None:
    """Make the undisturbed ones, kill at every point, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/kills"))
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument(
        "--result", type=Path, default=ROOT / "examples/benchmarks/results/kills.md"
    )
    options = parser.parse_args()
    work = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = list(all_rows(work, options.only))
    head = [
        "# Processes that are killed at any moment",
        f"`python examples/benchmarks/kills.py`, {provenance()}.",
        INTRO,
        "| job | killed | ended with | compared | difference | left |\n|---|---|---|---|---|---|",
    ]
    text = "\n\n".join(head) + "\n" + "\n".join(rows) + "\n"
    if not options.only:
        options.result.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    shutil.rmtree(work)
    SERVER.close()


def all_rows(work: Path, only: str) -> Iterator[str]:
    """A line of the table for each case, as they are done."""
    data, whole, two, scores = (work / name for name in ("data", "whole/run", "two/run", "scores"))
    call(None, "simulate", data, "--rows", 6000, "--seed", 7)
    rows = pl.read_parquet(data / "train.parquet")
    pl.concat([rows] * 28).head(132_000).with_row_index("row").write_parquet(data / "log.parquet")
    train = ["train", data / "spec.yaml", *SMALL, "--out"]
    score = ["score", whole, "--data", data / "log.parquet", "--keep", "row,item_id", "--out"]
    call(None, *train, whole)
    call(None, *train, two, "train.devices=2")
    call(None, *score, scores)

    def trained(case: Case, expected: Path, *more: str) -> tuple[str, dict[str, str], list[str]]:
        run = work / "case/run"
        if case.overwrite:
            shutil.copytree(whole, run)
            more = (*more, "--overwrite")
        codes = killed(case, *train, run, *more)
        return codes, run_differences(run, expected), leftovers(run)

    def scored(case: Case) -> tuple[str, dict[str, str], list[str]]:
        out = work / "case/scores"
        codes = killed(case, *score, out)
        return codes, score_differences(out, scores), hidden(out)

    def reported(case: Case) -> tuple[str, dict[str, str], list[str]]:
        run = shutil.copytree(whole, work / "case/run")
        codes = killed(case, "report", run)
        return codes, run_differences(run, whole), leftovers(run)

    jobs: list[tuple[str, str, list[Case], Callable[[Case], Any]]] = [
        ("train", RUN, TRAIN, lambda case: trained(case, whole)),
        ("train", RUN, SIGNALS, lambda case: trained(case, whole)),
        ("train, 2 processes", RUN, TEAM, lambda case: trained(case, two, "train.devices=2")),
        ("score", SCORES, SCORE, scored),
        ("report", RUN, REPORT, reported),
    ]
    for job, compared, cases, do in jobs:
        for case in cases:
            if only not in case.name:
                continue
            shutil.rmtree(work / "case", ignore_errors=True)
            (work / "case").mkdir()
            codes, different, left = do(case)
            words = "; ".join(f"{k}: {v}" for k, v in different.items()) or "none"
            row = f"| {job} | {case.name} | {codes} | {compared} | {words} | {len(left)} |"
            sys.stderr.write(row + "\n")
            yield row


def killed(case: Case, *args: object) -> str:
    """The exit codes of a command at each point of a case; in the end it is left alone."""
    codes = [call(point, *args) for point in case.points]
    call(None, *args)
    return ", ".join({-9: "SIGKILL"}.get(code, str(code)) for code in codes)


def call(point: dict[str, Any] | None, *args: object) -> int:
    """Run the command line, ended at a point; without one it must succeed, or have succeeded."""
    code, err = SERVER(point, *args)
    is_done = code == 0 or (code == 2 and "this run is finished" in err)
    if is_done != (point is None):
        raise SystemExit(f"{point}: {args} ended with {code}: {err}")
    return code


def hidden(folder: Path) -> list[str]:
    """Names in a folder that begin with a dot."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


if __name__ == "__main__":
    main()
