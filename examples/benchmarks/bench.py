"""What the benchmarks share: data, runs in processes of their own, where a figure comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from recmtl.run import versions

__all__ = ["ROOT", "begin", "prepared", "provenance", "recmtl", "simulated", "train_once"]

ROOT = Path(__file__).parents[2]
_COMMITS = "commits.txt"
OPTIONS = {"kuairand": ("--train-until", "2022-04-16", "--valid-until", "2022-04-17")}
"""Of the data sets' scripts: the days are those of a cut of 8 to 19 April 2022."""


def prepared(name: str, raw: Path, folder: Path) -> Path:
    """Make a public data set's files from its owner's, unless they are there; returns `folder`."""
    options = OPTIONS.get(name, ())
    script = ROOT / "datasets" / name / "prepare.py"

    def make() -> None:
        subprocess.run([sys.executable, script, raw, folder, *options], check=True)

    return _made(folder, [name, str(raw.resolve()), *options], make)


def simulated(folder: Path, *options: object) -> Path:
    """Simulate a funnel and its spec, unless they are there; returns `folder`."""

    def make() -> None:
        recmtl("simulate", folder, *options, "--overwrite")

    return _made(folder, [str(option) for option in options], make)


def _made(folder: Path, how: list[str], make: Callable[[], None]) -> Path:
    """The folder, made anew unless it was made to the end in this way."""
    note = folder.with_name(f"{folder.name}.made.json")
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != how:
        note.unlink(missing_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        make()
        note.write_text(json.dumps(how), encoding="utf-8")
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


def provenance(work: Path | None = None) -> str:
    """Commit, date, machine and versions.

    Args:
        work: folder where runs are kept from call to call; the commits of all calls are named.
    """
    commit = _commit()
    if work is not None:
        commits = _commits_of(work)
        commit = " and ".join(commits) if len(commits) > 1 else commit
    today = datetime.datetime.now(tz=datetime.UTC)
    packages = ", ".join(f"{name} {v}" for name, v in versions().items() if name != "platform")
    return f"commit {commit}, {today:%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {packages}"


def begin(work: Path) -> None:
    """Write down in a folder where runs are kept that this commit may add some."""
    work.mkdir(parents=True, exist_ok=True)
    commits = dict.fromkeys([*_commits_of(work), _commit()])
    (work / _COMMITS).write_text("\n".join(commits) + "\n", encoding="utf-8")


def _commits_of(work: Path) -> list[str]:
    file = work / _COMMITS
    return file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []


def _commit() -> str:
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", "recmtl", "examples")
    return _git("rev-parse", "--short", "HEAD").strip() + (" with changes" if changes else "")


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
