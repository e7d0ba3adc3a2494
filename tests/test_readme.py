"""The README's blocks run, in its order, in one folder; its YAML is a valid spec."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recmtl import load_spec

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- test: (shell|python) -->\n```\w+\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def test_every_runnable_block_is_marked() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("```python") == sum(kind == "python" for kind, _ in blocks()) > 3


def test_the_spec_is_valid(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    (tmp_path / "shop.yaml").write_text(text[1], encoding="utf-8")
    assert load_spec(tmp_path / "shop.yaml").tower.kind == "ple"


@pytest.mark.slow
def test_blocks_run_in_order(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for kind, block in blocks():
        command = (
            ["bash", "-euo", "pipefail", "-c", block]
            if kind == "shell"
            else [sys.executable, "-c", block]
        )
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert (tmp_path / "runs/a/report.html").is_file()
    assert (tmp_path / "scores/manifest.json").is_file()
