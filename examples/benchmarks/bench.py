"""What the benchmarks share: runs in processes of their own, and where a figure comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from recmtl.run import versions

__all__ = ["ROOT", "provenance", "recmtl", "train_once"]

ROOT = Path(__file__).parents[2]


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
