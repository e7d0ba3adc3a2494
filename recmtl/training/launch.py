"""Several processes for `recmtl train`: this one is rank 0, the others are its children.

A child's stdin is a pipe that this process holds: when it closes, by whatever end this process
comes to, the child leaves at once. What a child has to say goes through another pipe, as JSON
lines: that it is ready, that it is done, or why it failed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is public

from recmtl._processes import environment, how_it_ended
from recmtl.errors import RecMTLError
from recmtl.training.failures import from_record, is_lost_peer
from recmtl.training.team import Team, abort

__all__ = ["led_team"]

_RANK = Path(__file__).with_name("rank.py")
_HOST = "127.0.0.1"
_LAST_WORDS_S = 10.0
_LEAVE_S = 60.0
_STDERR_CHARS = 2000


@contextmanager
def led_team(
    run: Path, data_dir: Path, *, devices: int, sharding: Mapping[str, str]
) -> Iterator[Team]:
    """This process and `devices` - 1 children of it, which call the same `fit`.

    Args:
        run: the run folder, with its config and encoders.
        data_dir: folder of the data.
        devices: processes in total.
        sharding: `train.sharding`, which may differ from the one in the run.

    Raises:
        RecMTLError: why a child failed, in the child's own words; all others are ended then.
    """
    if devices == 1:
        yield Team()
        return
    listening = socket.create_server((_HOST, 0))
    port = listening.getsockname()[1]
    store = TCPStore(
        _HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    children: list[_Child] = []
    try:
        for rank in range(1, devices):
            job = {"run": str(run), "data_dir": str(data_dir), "sharding": dict(sharding)}
            children.append(_Child(rank, devices, port, job))
        _wait_until_ready(children)
        yield Team(world_size=devices, local_world_size=devices, store=store, is_local=True)
        for child in children:
            child.join(_LEAVE_S)
    except BaseException as error:
        cause = _cause(error, children)
        if cause is not None:
            raise cause from error
        raise
    finally:
        for child in children:
            child.end()


class _Child:
    """A process, and a thread that listens to it."""

    def __init__(self, rank: int, world_size: int, port: int, job: dict[str, Any]) -> None:
        self.rank = rank
        self.ready = threading.Event()
        self.ended = threading.Event()
        self._is_over = threading.Event()
        self.failure: dict[str, Any] | None = None
        self.is_done = False
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        receiving, sending = os.pipe()
        # By path: with `-m`, the package would be imported before a line of the file runs.
        command = [sys.executable, "-P", str(_RANK), json.dumps(job), f"{sending}"]
        # Ctrl-C reaches the children too: blocked until they ignore it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[sending],
                env=_environment(rank, world_size, port),
            )
        except BaseException:
            os.close(receiving)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(sending)
        self._thread = threading.Thread(
            target=self._listen, args=(receiving,), name=f"recmtl-rank-{rank}", daemon=True
        )
        self._thread.start()

    def _listen(self, receiving: int) -> None:
        try:
            with os.fdopen(receiving, encoding="utf-8") as reports, suppress(ValueError):
                for line in reports:
                    said = json.loads(line)  # of a child that was killed in mid-word: no JSON
                    if "failure" in said:
                        self.failure = said["failure"]
                    elif "done" in said:
                        self.is_done = True
                    else:
                        self.ready.set()
        finally:
            self.process.wait()
            self.ended.set()
        if self.has_failed and not self._is_over.wait(_LAST_WORDS_S):
            abort()

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or said that it would, without being done."""
        return self.failure is not None or (self.ended.is_set() and not self.is_done)

    def join(self, timeout_s: float) -> None:
        """Wait until it has left by itself."""
        if self.ended.wait(timeout_s) and self.has_failed:
            raise self.error()

    def error(self) -> Exception:
        """Why it failed."""
        if self.failure is not None:
            return from_record(self.failure, self.rank)
        how = how_it_ended(self.process.wait())
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-_STDERR_CHARS:]
        return RecMTLError(
            f"Process {self.rank} of the training {how}. All of them were ended; the same command"
            " goes on from the last checkpoint." + (f" It said:\n{said}" if said else "")
        )

    def end(self) -> None:
        """Make sure that it is gone."""
        assert self.process.stdin is not None
        self._is_over.set()
        self.process.stdin.close()
        if not self.ended.wait(2.0):
            self.process.kill()
            self.ended.wait(_LAST_WORDS_S)
        self._thread.join(_LAST_WORDS_S)
        self._stderr.close()


def _wait_until_ready(children: list[_Child]) -> None:
    while not all(child.ready.is_set() for child in children):
        for child in children:
            if child.has_failed:
                child.ended.wait(_LAST_WORDS_S)
                raise child.error()
        time.sleep(0.05)


def _cause(error: BaseException, children: list[_Child]) -> Exception | None:
    """What a child says about the loss that this process noticed, if it was no more than that."""
    is_lost = is_lost_peer(error)
    if not is_lost and isinstance(error, RecMTLError | OSError | KeyboardInterrupt):
        return None
    until = time.monotonic() + _LAST_WORDS_S * is_lost
    while True:
        told = [c for c in children if c.failure is not None and not c.failure["lost_peer"]]
        told = told or [c for c in children if c.has_failed and c.failure is None]
        if told:
            told[0].ended.wait(_LAST_WORDS_S)
            return told[0].error()
        if time.monotonic() >= until:
            return None
        time.sleep(0.05)


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would tell a child, and where this very package is."""
    own = {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "WORLD_SIZE": f"{world_size}",
        "LOCAL_WORLD_SIZE": f"{world_size}",
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": f"{port}",
    }
    if not torch.cuda.is_available():
        own["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return environment(**own)
