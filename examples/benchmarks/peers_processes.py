"""Contestants as processes of their own environments, and rounds in which they take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ROOT
from rounds import Timing

__all__ = ["PEERS", "Contestant", "Environment", "alternate", "environment"]

_HERE = Path(__file__).parent / "contestants"


@dataclass(frozen=True)
class Environment:
    """Where a package runs."""

    module: str
    requirements: tuple[str, ...] = ()


PEERS = {
    "ours": Environment("by_ours"),
    "torch-rechub": Environment("by_rechub", ("torch-rechub==0.9.0", "pyarrow", "pandas")),
    "DeepCTR-Torch": Environment(
        "by_deepctr", ("deepctr-torch==0.3.0", "requests", "pyarrow", "pandas")
    ),
    "FuxiCTR": Environment("by_fuxictr", ("fuxictr==2.3.10",)),
    "NextRec": Environment("by_nextrec", ("nextrec==0.6.14",)),
}


def environment(name: str, folder: Path) -> Path:
    """The Python of a contestant; its environment is made when it is not there.

    All of them get the torch of this interpreter, so that kernels are the same.
    """
    requirements = PEERS[name].requirements
    if not requirements:
        return Path(sys.executable)
    from torch import __version__

    wanted = [f"torch=={__version__.partition('+')[0]}", *requirements]
    home = folder / requirements[0].partition("==")[0]
    python, mark = home / "bin" / "python", home / "installed.txt"
    if not mark.is_file() or mark.read_text().split() != wanted:
        sys.stderr.write(f"making {home}\n")
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        mark.write_text("\n".join(wanted) + "\n")
    return python


class Contestant:
    """A process that answers one request after another."""

    def __init__(self, name: str, envs: Path, work: Path, *, threads: int) -> None:
        """Start it; imports go on meanwhile."""
        self.name = name
        python = environment(name, envs)
        folder = work / PEERS[name].module
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "stderr.txt"
        count = str(threads)
        self._process = subprocess.Popen(
            [python, _HERE / "serve.py", PEERS[name].module, "--threads", count],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "POLARS_MAX_THREADS": count}
            | {"OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
            | ({} if PEERS[name].requirements else {"PYTHONPATH": str(ROOT)}),
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alternate(
    turns: Mapping[str, Callable[[int], dict[str, Any]]], *, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Run contestants in turns; after `seconds` no new round begins, if there were three.

    Args:
        turns: name -> a request, given the number of the round.
        rounds: how often each one runs.
        seconds: what all rounds may take.
    """
    names = list(turns)
    found = {name: Timing(wall_us=[], cpu_us=[]) for name in names}
    begun = time.perf_counter()
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() - begun > seconds:
            break
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            answer = turns[name](turn)
            found[name].wall_us.append(1e6 * answer["wall_s"] / answer["rows"])
            found[name].cpu_us.append(1e6 * answer["cpu_s"] / answer["rows"])
    return found
