"""What the benchmarks share: data, runs in processes of their own, where a figure comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from recmtl.run import versions

__all__ = ["ROOT", "prepared", "provenance", "recmtl", "simulated", "train_once"]

ROOT = Path(__file__).parents[2]
OPTIONS = {"kuairand": ("--train-until", "2022-04-16", "--valid-until", "2022-04-17")}
"""Of the data sets' scripts: the days are those of a cut of 8 to 19 April 2022."""


def prepared(name: str, raw: Path, folder: Path) -> Path:
    """Make a public data set's files from its owner's, unless they are there; returns `folder`."""
    if not (folder / "train.parquet").is_file():
        script = ROOT / "datasets" / name / "prepare.py"
        command = [sys.executable, script, raw, folder, *OPTIONS.get(name, ())]
        subprocess.run(command, check=True)
    return folder


def simulated(folder: Path, *options: object) -> Path:
    """Simulate a funnel and its spec, unless they are there; returns `folder`."""
    if not (folder / "spec.yaml").is_file():
        recmtl("simulate", folder, *options)
    return folder


def recmtl(*args: object) -> str:
    """Run the command line and return what it printed."""
    command = [sys.executable, "-m", "recmtl", *map(str, args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train_once(run: Path, spec: str | Path, *args: object) -> None:
    """Train a run, unless it is finished; one that was interrupted goes on."""
    state = run / "run.json"
    if not (state.is_file() and json.loads(state.read_text())["status"] == "finished"):
        recmtl("train", spec, "--out", run, *args, "--json")


def provenance() -> str:
    """Commit, date, machine and versions."""
    commit = _git("rev-parse", "--short", "HEAD").strip()
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", "recmtl", "examples")
    commit += " and changes" if changes else ""
    today = datetime.datetime.now(tz=datetime.UTC)
    packages = ", ".join(f"{name} {v}" for name, v in versions().items() if name != "platform")
    return f"commit {commit}, {today:%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {packages}"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
