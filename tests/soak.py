"""A soak: training, evaluation and scoring, ended again and again at random moments.

    python tests/soak.py --minutes 30 --seed 0 [--work FOLDER] [--devices 1,2]

First each job runs undisturbed. Then rounds are made until the time is over: each job runs again,
in processes that get SIGKILL or SIGTERM at a random moment, which the seed decides, and is repeated
until it ends by itself. Where several processes train, one of the others may be hit. What it leaves
must be what the undisturbed job left: metrics, checkpoints and scores, to the last bit. The exit
code is 1 where something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)  # the package beside this script, whatever is installed

import polars as pl  # noqa: E402
import psutil  # noqa: E402

from tests.runs import leftovers, run_differences, score_differences  # noqa: E402

ROWS = 40_000
SMALL = [
    *("tower=mmoe", "tower.num_experts=2", "tower.expert_widths=[16]", "tower.head_widths=[8]"),
    *("train.batch_size=256", "train.epochs=3", "train.checkpoint_every_steps=20"),
]
TIMEOUT_S = 900.0
PATIENCE = 8
"""After so many disturbances a job is left alone, so that every round ends."""


class Job(NamedTuple):
    """Work that is done undisturbed once, and then again and again."""

    name: str
    devices: int
    args: Sequence[str]
    seconds: float


class Outcome(NamedTuple):
    """One round of one job."""

    killed: int
    stopped: int
    phases: Counter[str]
    problems: dict[str, str]


def main() -> None:
    """Make rounds until the time is over, print a table, exit with 1 where something differed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--devices", default="1,2", help="process counts to train with")
    parser.add_argument("--work", type=Path, help="folder for data and runs (default: temporary)")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="recmtl-soak-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        failed = soak(work.absolute(), options)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def soak(work: Path, options: argparse.Namespace) -> int:
    """Number of rounds that did not end as they should."""
    rng = random.Random(options.seed)
    say(f"soak: {options.minutes:g} minutes, seed {options.seed}, in {work}")
    counts = [int(n) for n in options.devices.split(",")]
    jobs = [undisturbed(work, devices) for devices in counts]
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    numbers: Counter[str] = Counter()
    started = time.monotonic()
    until = started + 60 * options.minutes
    while time.monotonic() < until or not outcomes:
        for train, evaluate, score in jobs:
            folder = work / "round"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            whole = work / f"whole-{train.devices}"
            for job in (train, evaluate, score):
                outcome = disturbed(job, folder, whole, rng)
                outcomes.setdefault((job.name, job.devices), []).append(outcome)
                numbers["killed"] += outcome.killed
                numbers["stopped"] += outcome.stopped
                for what, how in outcome.problems.items():
                    say(f"PROBLEM: {job.name}, {job.devices} processes: {what}: {how}")
            if time.monotonic() > until:
                break
    minutes = (time.monotonic() - started) / 60
    failed = sum(bool(o.problems) for one in outcomes.values() for o in one)
    say(f"\n{minutes:.1f} minutes: {numbers['killed']} SIGKILL, {numbers['stopped']} SIGTERM\n")
    say("| job | processes | rounds | SIGKILL | SIGTERM | rounds that differ |")
    say("|---|---|---|---|---|---|")
    for (name, devices), found in outcomes.items():
        killed, stopped = sum(o.killed for o in found), sum(o.stopped for o in found)
        different = sum(bool(o.problems) for o in found)
        say(f"| {name} | {devices} | {len(found)} | {killed} | {stopped} | {different} |")
    phases = sum((o.phases for one in outcomes.values() for o in one), Counter[str]())
    say("\nWhere: " + ", ".join(f"{name} {n}" for name, n in phases.most_common()))
    return failed


def undisturbed(work: Path, devices: int) -> tuple[Job, Job, Job]:
    """Train, evaluate and score once, in peace."""
    data, whole = work / "data", work / f"whole-{devices}"
    if not (data / "spec.yaml").exists():
        finish(recmtl("simulate", str(data), "--rows", str(ROWS), "--seed", "5"))
        rows = pl.read_parquet(data / "train.parquet")
        pl.concat([rows] * 7).write_parquet(data / "log.parquet")  # four parts
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    more = SMALL if devices == 1 else [*SMALL, f"train.devices={devices}"]
    jobs = []
    for name, args in (
        ("train", ["train", str(data / "spec.yaml"), "--out", "OUT/run", *more]),
        ("eval", ["eval", "OUT/run", "--data", str(data / "test.parquet"), "--json"]),
        (
            "score",
            ["score", "OUT/run", "--data", str(data / "log.parquet"), "--out", "OUT/scores"],
        ),
    ):
        began = time.monotonic()
        code, out, err = finish(recmtl(*placed(args, whole)))
        if code:
            raise SystemExit(f"the undisturbed {name} ended with {code}:\n{err}")
        (whole / f"{name}.out").write_text(out, encoding="utf-8")
        jobs.append(Job(name, devices, args, time.monotonic() - began))
        say(f"undisturbed {name} with {devices} processes: {jobs[-1].seconds:.1f} s")
    return jobs[0], jobs[1], jobs[2]


def disturbed(job: Job, folder: Path, whole: Path, rng: random.Random) -> Outcome:
    """Do a job, disturbed at random moments until it ends by itself; compare what it left."""
    signals: Counter[int] = Counter()
    phases: Counter[str] = Counter()
    problems: dict[str, str] = {}
    for attempt in range(100):
        process = recmtl(*placed(job.args, folder))
        number = 0
        if attempt < PATIENCE:
            # Anywhere from the imports to a little after the end.
            try:
                process.wait(rng.uniform(0.1, 1.1) * job.seconds)
            except subprocess.TimeoutExpired:
                number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                os.kill(victim(process.pid, rng), number)
        code, out, err = finish(process)
        if code == 0 or (attempt and code == 2 and "this run is finished" in err):
            break  # in the latter case it was hit after its last word
        if number:
            signals[number] += 1
            phases[phase(err)] += 1
            if "Traceback" in err:
                problems["a signal"] = err[-500:]
        else:
            problems[f"attempt {attempt}"] = f"ended with {code}: {err[-500:]}"
            break
    if not problems:
        problems = compare(job, folder, whole, out)
    return Outcome(signals[signal.SIGKILL], signals[signal.SIGTERM], phases, problems)


def victim(pid: int, rng: random.Random) -> int:
    """The process itself, or one of three times one that trains with it."""
    others = []
    with contextlib.suppress(psutil.Error):
        others = [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return rng.choice(sorted(others)) if rng.random() < 1 / 3 and others else pid


def phase(err: str) -> str:
    """What a process was doing, by the last thing that it announced."""
    found = re.findall(
        r"^(fit|check|epoch|validation summary|validation|evaluate|score)", err, re.M
    )
    return found[-1] if found else "start"


def compare(job: Job, folder: Path, whole: Path, out: str) -> dict[str, str]:
    """What differs from the undisturbed job."""
    if job.name == "train":
        left = leftovers(folder / "run")
        found = {"left": ", ".join(left)} if left else {}
        return found | run_differences(folder / "run", whole / "run")
    if job.name == "eval":
        expected = (whole / "eval.out").read_text(encoding="utf-8")
        return {} if out == expected else {"metrics": f"{out} instead of {expected}"}
    return score_differences(folder / "scores", whole / "scores")


def recmtl(*args: str) -> subprocess.Popen[str]:
    """A process of its own, with the package beside this script."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "recmtl", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and what was said."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return 124, out, f"did not end within {TIMEOUT_S:.0f} s\n{err}"
    return process.returncode, out, err


def placed(args: Sequence[str], folder: Path) -> list[str]:
    return [arg.replace("OUT/", f"{folder}/") for arg in args]


def say(line: Any) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
