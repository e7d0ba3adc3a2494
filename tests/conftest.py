"""What every test shares; nothing here changes what is tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import hypothesis
import pytest

# Before torch is imported: FBGEMM's CPU backward collapses when OpenMP threads spin beside another
# busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is not a failure, and continuous integration sees the same examples each time.
hypothesis.settings.register_profile("recmtl", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("recmtl")


@pytest.fixture
def gloo() -> Iterator[None]:
    """A process group of this one process: no port, no network."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()
