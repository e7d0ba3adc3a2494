"""Runs of towers with levels, groups, fields and sequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl import api
from tests.report.conftest import odd_run, plain_run

__all__ = ["dtrn_run", "home_run", "odd_run", "plain_run"]

QUICK = ("train.batch_size=512", "train.epochs=1")


@pytest.fixture(scope="session")
def home_run(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tower whose groups have gates and self-gates, with a loss for the product."""
    out = tmp_path_factory.mktemp("home") / "run"
    tower = "tower={kind: home, expert_widths: [8], head_widths: []}"
    groups = ["tasks.ctr.group=act", "tasks.cvr.group=buy", "objective=entire_space"]
    api.train(funnel / "spec.yaml", out=out, overrides=[*QUICK, tower, *groups])
    return out


@pytest.fixture(scope="session")
def dtrn_run(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tower that reads fields and sequences, with an MMoE on top."""
    out = tmp_path_factory.mktemp("dtrn") / "run"
    head = "head: {kind: mmoe, num_experts: 3, expert_widths: [8], head_widths: []}"
    tower = f"tower={{kind: dtrn, {head}}}"
    api.train(funnel / "spec.yaml", out=out, overrides=[*QUICK, tower])
    return out
