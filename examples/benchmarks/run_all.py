"""Every speed, one script after the other; what is measured already is left alone.

    python examples/benchmarks/run_all.py runs/bench --quick

The output of each script is kept as `NAME.md` (and its rounds as `NAME.json`) in the folder, so a
run that was stopped goes on where it was. `--quick` measures one thread, the towers' steps, one
training and one peer, within half an hour on two cores; without it everything is measured, in some
hours. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Measurement(NamedTuple):
    """One call of one script."""

    name: str
    script: str
    arguments: tuple[str, ...]
    has_json: bool = True


def measurements(work: Path, *, quick: bool) -> Iterator[Measurement]:
    """All of them, the most telling first."""
    plain, sequences = str(work / "workload"), str(work / "workload_sequences")
    kept = work / "peers" / ("quick" if quick else "full")
    peers = ("--work", str(kept), "--envs", str(work / "peers" / "envs"))
    if quick:
        few = ("--rounds", "7")
        yield Measurement("limits_quick", "limits.py", (plain, "--threads", "1", *few))
        yield Measurement(
            "step_quick", "step.py", (plain, "--threads", "1", "--batch", "4096", *few)
        )
        yield Measurement("data_quick", "data.py", (plain, "--rounds", "3"))
        once = ("--threads", "1", "--towers", "mmoe", "--rounds", "1")
        yield Measurement("train_quick", "train.py", (plain, *once))
        yield Measurement("score_quick", "score.py", (plain, "--quick"))
        yield Measurement("start_quick", "start.py", (plain, "--rounds", "3"), has_json=False)
        yield Measurement("peers_quick", "peers.py", (plain, "--quick", *peers), has_json=False)
        return
    one, two, few = ("--threads", "1"), ("--threads", "2"), ("--rounds", "2")
    yield Measurement("step_1", "step.py", (plain, *one, "--rounds", "7"))
    yield Measurement("train_1", "train.py", (plain, *one, *few))
    bf16 = ("--precision", "bf16-mixed", "--towers", "mmoe", "ple")
    yield Measurement("train_bf16", "train.py", (plain, *one, *few, *bf16))
    yield Measurement("peers", "peers.py", (plain, *peers, "--seconds", "40"), has_json=False)
    yield Measurement("score", "score.py", (plain, "--seconds", "40"))
    yield Measurement("step_2", "step.py", (plain, *two, "--batch", "4096", "--rounds", "9"))
    yield Measurement("train_2", "train.py", (plain, *two, *few))
    yield Measurement("data", "data.py", (plain, "--rounds", "5"))
    yield Measurement("start", "start.py", (plain,), has_json=False)
    yield Measurement("many_tasks", "many_tasks.py", one)
    step = ("--batch", "4096", "--rounds", "7")
    yield Measurement("step_grow", "step.py", (plain, *one, *step, "--grow"))
    yield Measurement("step_sequences", "step.py", (sequences, *one, *step, "--sequences"))
    yield Measurement("limits_1", "limits.py", (plain, *one))
    yield Measurement("limits_2", "limits.py", (plain, *two))


def main() -> None:
    """Run what has no result yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, nargs="?", default=Path("runs/bench"))
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    args = parser.parse_args()
    if args.work.exists() and not args.work.is_dir():
        parser.error(f"{args.work}: is a file, expected a folder.")
    args.work.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, script, arguments, has_json in measurements(args.work, quick=args.quick):
        page = args.work / f"{name}.md"
        if page.is_file() and not args.again:
            sys.stderr.write(f"{name}: measured already, see {page}\n")
            continue
        out = ("--out", str(args.work / f"{name}.json")) if has_json else ()
        sys.stderr.write(f"{name}: {script} {' '.join(arguments)}\n")
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments, *out],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        sys.stdout.write(f"## {name}\n\n{done.stdout}\n")
        sys.stdout.flush()
        if done.returncode:
            failed.append(name)
            continue
        page.write_text(done.stdout, encoding="utf-8")
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
