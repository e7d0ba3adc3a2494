"""Processes that wait for jobs: many cases share the seconds that their imports take.

A job runs in the first N processes of a pool, as N ranks over gloo that see what `torchrun` would
tell them. Every job gets a process group of its own.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["Pool", "RankFailedError"]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400.0
GRACE_S = 5.0
"""How long the others may take to fail as well once a rank has failed."""


class RankFailedError(RuntimeError):
    """A rank raised an error, died, or did not answer."""


class Pool:
    """Up to `size` ranks on this machine.

    Args:
        folder: of the pool's own files.
        size: number of processes; a job may use fewer.
        python: interpreter that runs them.
        environment: added to the environment.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._size, self._python = size, str(python)
        added = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "POLARS_MAX_THREADS": "1"}
        self._environment = {**os.environ, **added, **(environment or {})}
        self._jobs = 0
        self._ranks: list[subprocess.Popen[str]] = []
        self._answers: list[IO[str]] = []

    def run(self, world_size: int, job: str, **arguments: Any) -> list[Any]:
        """What `tests.distributed.jobs.<job>(**arguments)` returns on each of `world_size` ranks.

        Raises:
            RankFailedError: it failed on one of them.
        """
        if not self._ranks:
            self._start()
        self._jobs += 1
        request = {
            "job": job,
            "arguments": arguments,
            "world_size": world_size,
            "store": str(self._folder / f"store-{self._jobs}"),
        }
        for process in self._ranks[:world_size]:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        answers = self._collect(world_size, time.monotonic() + TIMEOUT_S)
        return [answers[rank]["value"] for rank in range(world_size)]

    def close(self) -> None:
        """End all processes."""
        for process in self._ranks:
            if process.stdin is not None:
                process.stdin.close()
        for process, answers in zip(self._ranks, self._answers, strict=True):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            answers.close()
        self._ranks, self._answers = [], []

    def _start(self) -> None:
        for rank in range(self._size):
            mine, theirs = os.pipe()
            with self._log(rank).open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [self._python, "-m", "tests.distributed.worker", str(rank), str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs],
                    cwd=ROOT,
                    env=self._environment,
                    text=True,
                )
            os.close(theirs)
            self._ranks.append(process)
            self._answers.append(os.fdopen(mine, encoding="utf-8"))

    def _log(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.log"

    def _collect(self, world_size: int, until: float) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        failed = False
        with selectors.DefaultSelector() as ready:
            for rank in range(world_size):
                ready.register(self._answers[rank], selectors.EVENT_READ, rank)
            while len(answers) < world_size:
                events = ready.select(timeout=max(until - time.monotonic(), 0))
                if not events:
                    break
                for key, _ in events:
                    line = self._answers[key.data].readline()
                    answers[key.data] = json.loads(line) if line else {"error": "died"}
                    ready.unregister(key.fileobj)
                if not failed and any("error" in answer for answer in answers.values()):
                    failed, until = True, time.monotonic() + GRACE_S
        if failed or len(answers) < world_size:
            self._fail(world_size, answers)
        return answers

    def _fail(self, world_size: int, answers: Mapping[int, Any]) -> None:
        said = [f"rank {rank}: {answer.get('error')}" for rank, answer in answers.items()]
        said += [
            f"{log.name}: {log.read_text()[-2000:]}" for log in map(self._log, range(world_size))
        ]
        if len(answers) < world_size or any(p.poll() is not None for p in self._ranks):
            for process in self._ranks:  # some wait for one another: a new job starts new ones
                process.kill()
            self.close()
        raise RankFailedError("\n".join(said))
