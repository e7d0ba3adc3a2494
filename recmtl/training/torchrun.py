"""`torchrun -m recmtl train ...`: every process runs the command, rank 0 prepares the run.

The others wait for its word. The first process that fails says why; the others leave with its exit
code, and without a word.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # it is public

from recmtl.errors import RecMTLError
from recmtl.training.failures import OtherRankError, as_record, is_lost_peer
from recmtl.training.team import Team

__all__ = ["follow", "leading", "said_once", "torchrun_team"]

_PREPARED, _FAILED = "prepared", "failed"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CALLS = itertools.count()
"""A script may train several times; what was said in one of them does not count in the next."""
_POLL_S = 0.2
_LAST_WORDS_S = 3.0
"""How long a process that lost another one leaves it the word."""
_TIMEOUT = timedelta(minutes=2)


@contextmanager
def torchrun_team() -> Iterator[Team | None]:
    """The processes that torchrun started; None where it did not, or started just this one.

    Raises:
        OtherRankError: the block failed on another rank before.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield None
        return
    team = _team()
    with _leaving_with(os.getppid()), said_once(team):
        yield team


@contextmanager
def said_once(team: Team) -> Iterator[None]:
    """Where the block fails on several ranks, the first one raises its error.

    Raises:
        OtherRankError: on all ranks but the first that failed.
    """
    try:
        yield
    except OtherRankError:
        raise
    except KeyboardInterrupt:  # torchrun ends the others when one of them failed
        first = _failure(team)
        if first is not None:
            raise _elsewhere(first) from None
        raise
    except Exception as error:
        with _deaf():
            first = _first_failure(team, error)
        if first["rank"] != team.rank:
            raise _elsewhere(first) from error
        if is_lost_peer(error):
            raise RecMTLError(
                "Another process of the training ended without a word, as when the system kills it"
                " because memory runs out. All of them were ended; the same command goes on from"
                " the last checkpoint."
            ) from error
        raise


@contextmanager
def leading(team: Team) -> Iterator[Team]:
    """Rank 0 says that the run is prepared, and goes on."""
    assert team.store is not None
    team.store.set(_PREPARED, "")
    yield team


def follow(team: Team) -> None:
    """Wait until rank 0 says that the run is prepared, however long that takes.

    Raises:
        OtherRankError: rank 0 failed.
    """
    assert team.store is not None
    while not team.store.check([_PREPARED]):
        first = _failure(team)
        if first is not None:
            raise _elsewhere(first)
        time.sleep(_POLL_S)


@contextmanager
def _leaving_with(parent: int) -> Iterator[None]:
    """End this process when torchrun is gone: nobody would see how it ends, or end it."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(1.0):
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=watch, name="recmtl-lifeline", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _team() -> Team:
    store, rank, world_size = next(rendezvous("env://", timeout=_TIMEOUT))
    return Team(
        rank=rank,
        world_size=world_size,
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_world_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        store=PrefixStore(f"recmtl/{next(_CALLS)}", store),
        is_led=True,
    )


def _first_failure(team: Team, error: Exception) -> dict[str, Any]:
    """What the first rank that failed wrote down, this one perhaps."""
    assert team.store is not None
    record = as_record(error)
    mine = {"rank": team.rank, "code": record["code"], "message": record["message"]}
    until = time.monotonic() + (_LAST_WORDS_S if record["lost_peer"] else 0)
    while time.monotonic() < until and _failure(team) is None:
        time.sleep(_POLL_S)
    try:
        return cast(
            "dict[str, Any]", json.loads(team.store.compare_set(_FAILED, "", json.dumps(mine)))
        )
    except RuntimeError:  # torchrun is gone, and its store with it
        return mine


def _failure(team: Team) -> dict[str, Any] | None:
    assert team.store is not None
    try:
        if not team.store.check([_FAILED]):
            return None
        return cast("dict[str, Any]", json.loads(team.store.get(_FAILED)))
    except RuntimeError:
        return None


def _elsewhere(first: dict[str, Any]) -> OtherRankError:
    return OtherRankError(f"process {first['rank']} failed: {first['message']}", first["code"])


@contextmanager
def _deaf() -> Iterator[None]:
    """Without being stopped: torchrun asks the others to leave as soon as one has failed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
