from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.raw import ROOT

# `datasets/preparing`, which the preparers find from where they lie.
sys.path.append(str(ROOT / "datasets"))

SMALL = ("train.batch_size=64", "train.epochs=1", "train.checkpoint_every_steps=1000")


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Check a spec on prepared files as `doctor` does, train it, and evaluate its test rows."""

    def train(spec: Path, data: Path, *overrides: str) -> dict[str, Any]:
        from recmtl import api
        from recmtl.doctor import examine, exit_code

        findings = examine(spec, data=data, overrides=[*SMALL, *overrides])
        assert exit_code(findings) == 0, [str(f) for f in findings if f.severity == "error"]
        api.train(spec, data=data, out=tmp_path / "run", overrides=[*SMALL, *overrides])
        result: dict[str, Any] = api.evaluate(tmp_path / "run", data / "test.parquet")
        return result

    return train
