"""Several processes for `recmtl train`: this one is rank 0, the others are its children.

A child says that it is ready, that it is done, or why it failed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is public

from recmtl._child import Child
from recmtl._processes import environment
from recmtl.errors import RecMTLError
from recmtl.training.failures import from_record, is_lost_peer
from recmtl.training.team import Team, abort

__all__ = ["led_team"]

_RANK = Path(__file__).with_name("rank.py")
_HOST = "127.0.0.1"
_LAST_WORDS_S = 10.0
_LEAVE_S = 60.0
_LEAVE_SOON_S = 2.0


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
    ranks: list[_Rank] = []
    try:
        for rank in range(1, devices):
            job = {"run": str(run), "data_dir": str(data_dir), "sharding": dict(sharding)}
            ranks.append(_Rank(rank, devices, port, job))
        _wait_until_ready(ranks)
        yield Team(world_size=devices, local_world_size=devices, store=store, is_local=True)
        for one in ranks:
            one.join(_LEAVE_S)
    except BaseException as error:
        cause = _cause(error, ranks)
        if cause is not None:
            raise cause from error
        raise
    finally:
        for one in ranks:
            one.end()


class _Rank:
    """A child that trains with this process."""

    def __init__(self, rank: int, world_size: int, port: int, job: dict[str, Any]) -> None:
        self.rank = rank
        self.ready = threading.Event()
        self._is_over = threading.Event()
        self.failure: dict[str, Any] | None = None
        self._is_done = False
        self.child = Child(
            _RANK,
            json.dumps(job),
            environment=_environment(rank, world_size, port),
            hear=self._hear,
            on_end=self._on_end,
        )

    def _hear(self, said: dict[str, Any]) -> None:
        if "failure" in said:
            self.failure = said["failure"]
        elif "done" in said:
            self._is_done = True
        else:
            self.ready.set()

    def _on_end(self) -> None:
        if not self._is_done and not self._is_over.wait(_LAST_WORDS_S):
            abort()

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or said that it would, without being done."""
        return self.failure is not None or (self.child.ended.is_set() and not self._is_done)

    def join(self, timeout_s: float) -> None:
        """Wait until it has left by itself."""
        if self.child.ended.wait(timeout_s) and self.has_failed:
            raise self.error()

    def error(self) -> Exception:
        """Why it failed, once it has."""
        self.child.ended.wait(_LAST_WORDS_S)
        if self.failure is not None:
            return from_record(self.failure, self.rank)
        how, said = self.child.how_it_ended()
        return RecMTLError(
            f"Process {self.rank} of the training {how}. All of them were ended; the same command "
            f"goes on from the last checkpoint.{said}"
        )

    def end(self) -> None:
        """Make sure that it is gone."""
        self._is_over.set()
        self.child.end(_LEAVE_SOON_S)


def _wait_until_ready(ranks: list[_Rank]) -> None:
    while not all(one.ready.is_set() for one in ranks):
        for one in ranks:
            if one.has_failed:
                raise one.error()
        time.sleep(0.05)


def _cause(error: BaseException, ranks: list[_Rank]) -> Exception | None:
    """What a child says about the loss that this process noticed, if it was no more than that."""
    is_lost = is_lost_peer(error)
    if not is_lost and isinstance(error, RecMTLError | OSError | KeyboardInterrupt):
        return None
    until = time.monotonic() + _LAST_WORDS_S * is_lost
    while True:
        told = [c for c in ranks if c.failure is not None and not c.failure["lost_peer"]]
        told = told or [c for c in ranks if c.has_failed and c.failure is None]
        if told:
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
