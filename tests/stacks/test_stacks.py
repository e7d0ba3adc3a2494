"""Towers in stacks of others learn there what the log has; with torch-rechub: `tests/install`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STACKS = ROOT / "examples" / "stacks"


class Printed(NamedTuple):
    """What an example says."""

    losses: list[dict[str, float]]
    """Task -> loss, one an epoch."""
    auc: dict[str, float]


def read(text: str) -> Printed:
    lines = text.splitlines()
    assert all(re.search(r"; [\d,]+ rows/s$", line) for line in lines[:-1]), text
    assert lines[-1].startswith("AUC on 5,000 held-out rows: "), text
    numbers = [
        {name: float(value) for name, value in re.findall(r"(\w+) (\d\.\d{4})", line)}
        for line in lines
    ]
    return Printed(numbers[:-1], numbers[-1])


def run(*command: str | Path) -> Printed:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return read(done.stdout)


def check(found: Printed) -> None:
    """Every loss falls in every epoch, and every task is told from chance."""
    assert len(found.losses) == 3
    for task in ("ctr", "ctcvr"):
        by_epoch = [losses[task] for losses in found.losses]
        assert by_epoch == sorted(by_epoch, reverse=True)
        assert by_epoch[-1] < 0.95 * by_epoch[0]
    assert found.auc.keys() == {"ctr", "cvr", "ctcvr"}
    assert min(found.auc.values()) > 0.65


@pytest.mark.parametrize("name", ["plain_module", "lightning_module"])
def test_tower_learns_in_place_of_a_head(name: str) -> None:
    check(run(sys.executable, STACKS / f"{name}.py"))


@pytest.mark.multiprocess
def test_sharded_dlrm_learns_the_same_in_two_processes() -> None:
    one = run(sys.executable, STACKS / "torchrec_dlrm.py")
    check(one)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    two = run(sys.executable, *launch, STACKS / "torchrec_dlrm.py")
    for ours, theirs in zip(one.losses, two.losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert one.auc == pytest.approx(two.auc, abs=0.01)


def test_the_page_shows_lines_of_the_examples() -> None:
    text = (STACKS / "README.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in STACKS.glob("*.py"))
    shown = [
        line.strip()
        for block in re.findall(r"```python\n(.*?)```", text, re.S)
        for line in block.splitlines()
        if line.strip()
    ]
    assert len(shown) > 15
    squeezed = re.sub(r"\s+", "", code)
    for line in shown:
        assert re.sub(r"\s+", "", line) in squeezed, line
