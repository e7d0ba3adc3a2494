"""What every test shares; nothing here changes what is tested."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest

# Before torch is imported: FBGEMM's CPU backward collapses when OpenMP threads spin beside another
# busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A job in the background starts with SIGINT ignored, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is not a failure, and continuous integration sees the same examples each time.
hypothesis.settings.register_profile("recmtl", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("recmtl")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are for machines that have one."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def no_process_group_outlives_its_test() -> Iterator[None]:
    """A training script keeps its process group until it ends; the next test must not see it."""
    had_group = _has_group()
    yield
    if not had_group:
        _leave_group()


@pytest.fixture
def gloo() -> None:
    """A process group of this one process: no port, no network."""
    import torch.distributed as dist

    _leave_group()  # an example in a docstring may have left one
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60)
    )


@pytest.fixture(scope="session")
def funnel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small simulated click log and its spec."""
    from recmtl.simulate import simulate

    folder = tmp_path_factory.mktemp("funnel")
    simulate(folder, rows=6_000, seed=7)
    return folder


@pytest.fixture(scope="session")
def run(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on the funnel."""
    from recmtl import api

    out = tmp_path_factory.mktemp("runs") / "run"
    small = ["tower.num_experts=2", "tower.expert_widths=[16]", "tower.head_widths=[8]"]
    quick = ["tower=mmoe", "wide=none", *small, "train.batch_size=512", "train.epochs=1"]
    api.train(funnel / "spec.yaml", out=out, overrides=quick)
    return out


@pytest.fixture(scope="session")
def home_run(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tower whose groups have gates and self-gates, with a loss for the product."""
    from recmtl import api

    out = tmp_path_factory.mktemp("home") / "run"
    tower = "tower={kind: home, expert_widths: [8], head_widths: []}"
    groups = ["tasks.ctr.group=act", "tasks.cvr.group=buy", "objective=entire_space"]
    api.train(
        funnel / "spec.yaml",
        out=out,
        overrides=["train.batch_size=512", "train.epochs=1", "wide=none", tower, *groups],
    )
    return out


@pytest.fixture(scope="session")
def dtrn_run(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tower that reads fields and sequences, with an MMoE on top."""
    from recmtl import api

    out = tmp_path_factory.mktemp("dtrn") / "run"
    head = "head: {kind: mmoe, num_experts: 3, expert_widths: [8], head_widths: []}"
    tower = f"tower={{kind: dtrn, {head}}}"
    quick = ["train.batch_size=512", "train.epochs=1", "wide=none", tower]
    api.train(funnel / "spec.yaml", out=out, overrides=quick)
    return out


def _has_group() -> bool:
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def _leave_group() -> None:
    if _has_group():
        sys.modules["torch.distributed"].destroy_process_group()
