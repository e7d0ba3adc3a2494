"""The processes that train together: who is who, and how they join and leave."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from torch.distributed import Store  # type: ignore[attr-defined]  # it is public

from recmtl.errors import SpecError
from recmtl.training.signals import TrainingInterrupted

__all__ = ["ALONE", "Team", "TeamEnvironment", "abort", "joined", "require_devices"]

_JOIN = timedelta(minutes=2)
"""How long the others may take to join; all of them are up when this begins."""
_WAIT = timedelta(hours=3)
"""How long a process waits for another one in mid-training, which may have metrics of a huge log to
make; one that is gone is noticed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """The processes that train together, seen by one of them; one alone by default."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Which of the processes on this machine, and so which of its GPUs."""
    local_world_size: int = 1
    store: Store | None = None
    """Where they find one another."""
    is_local: bool = False
    """Whether all of them are on this machine, and talk over its loopback interface."""
    is_led: bool = False
    """Whether another process started this one, and ends it when it takes too long."""

    def __str__(self) -> str:
        """In words, for the plan and the terminal."""
        device = "GPU" if torch.cuda.is_available() else "CPU"
        if self.world_size == 1:
            return f"One process trains, on the {device}."
        where = f", {self.local_world_size} on each machine" * (
            self.local_world_size < self.world_size
        )
        how = "each on a GPU of its own (nccl)" if device == "GPU" else "all on the CPU (gloo)"
        return f"{self.world_size} processes train{where}, {how}."


ALONE = Team()
"""One process."""


class TeamEnvironment(ClusterEnvironment):
    """What Lightning asks about the processes; it has none to start."""

    def __init__(self, team: Team) -> None:
        self.team = team

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """Not used: the group exists when Lightning comes to it."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Not used."""
        return 0

    @staticmethod
    def detect() -> bool:
        """It is never guessed."""
        return False

    def world_size(self) -> int:
        """Processes on all machines."""
        return self.team.world_size

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Which of them this is."""
        return self.team.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Which of those on this machine this is."""
        return self.team.local_rank

    def node_rank(self) -> int:
        """Which machine this is."""
        return self.team.rank // self.team.local_world_size


@contextmanager
def joined(team: Team) -> Iterator[None]:
    """A process group for the block, which leaves no thread behind when it ends.

    A process that ends in order waits for the others first, so as not to break their last exchange;
    one that fails does not, and its end is what tells them.
    """
    had_group = dist.is_initialized()
    if team.world_size > 1:
        require_no_group()
        _join(team)
    try:
        with _share_of_threads(team):
            yield
        _meet(team)
    except BaseException as error:
        if team.world_size > 1:
            _forget(error)
        if isinstance(error, TrainingInterrupted):
            _meet(team)
        else:
            abort()
        raise
    finally:
        if dist.is_initialized() and not had_group:
            # Threads of a group that outlives the interpreter abort it: whoever holds the group has
            # to go first.
            gc.collect()
            dist.destroy_process_group()


def abort() -> None:
    """End what this process waits for on its GPU: nccl does not see that another one is gone."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        dist.distributed_c10d._abort_process_group()


def require_devices(devices: int | None, started: Team | None) -> int:
    """How many processes will train; refused where they have no place.

    Args:
        devices: `train.devices`.
        started: the processes that torchrun started, if it did.

    Raises:
        SpecError: this machine has fewer GPUs, or torchrun started another number.

    Example:
        >>> require_devices(None, None)
        1
    """
    if started is not None and devices not in (None, started.world_size):
        raise SpecError(
            f"train.devices: is {devices}, but torchrun started {started.world_size} processes."
            " Leave `train.devices` out, or start as many."
        )
    if started is not None and started.world_size % started.local_world_size:
        raise SpecError(
            f"torchrun: {started.world_size} processes in all, {started.local_world_size} on this"
            " machine: every machine must start as many. Use one `--nproc-per-node` for all."
        )
    total = devices or 1 if started is None else started.world_size
    here = total if started is None else started.local_world_size
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise SpecError(
            f"train.devices: {here} processes would train on this machine, which has"
            f" {torch.cuda.device_count()} GPUs. Start as many as it has, or fewer."
        )
    if total > 1:
        require_no_group()
    return total


def require_no_group() -> None:
    """Refuse to train with several processes where this one is in a group of its own.

    Raises:
        SpecError: an earlier training of a script or notebook left its process group.
    """
    if dist.is_initialized():
        raise SpecError(
            "train.devices: this process is in a torch.distributed process group already. Call"
            " `torch.distributed.destroy_process_group()` first, or leave `train.devices` out."
        )


def _join(team: Team) -> None:
    device = torch.device("cuda", team.local_rank) if torch.cuda.is_available() else None
    if device is not None:
        torch.cuda.set_device(device)
    with _loopback(team.is_local):
        dist.init_process_group(
            "gloo" if device is None else "nccl",
            store=team.store,
            rank=team.rank,
            world_size=team.world_size,
            timeout=_JOIN,
            device_id=device,
        )
    dist.distributed_c10d._set_pg_timeout(_WAIT)


def _meet(team: Team) -> None:
    if team.world_size > 1 and dist.is_initialized():
        dist.barrier()


def _forget(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold: the net, which holds the process group."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _loopback(wanted: bool) -> Iterator[None]:
    """Gloo listens where the machine's name points to, unless the environment says otherwise."""
    name = "GLOO_SOCKET_IFNAME"
    if not wanted or name in os.environ:
        yield
        return
    os.environ[name] = "lo"
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _share_of_threads(team: Team) -> Iterator[None]:
    """Processes on one machine share its cores, unless the user said how many threads each has."""
    before = torch.get_num_threads()
    if team.local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // team.local_world_size))
    try:
        yield
    finally:
        torch.set_num_threads(before)
