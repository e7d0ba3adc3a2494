"""The lowest and the highest numpy that are allowed, each laid over what is installed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TESTED = (
    *("metrics", "data/test_encode.py", "data/test_hashing.py", "data/test_labels.py"),
    "data/test_vocab.py",
    "scoring/test_scorer.py",  # with the training of the run that it scores
)
CODE = """
import sys
import numpy, pytest
print("numpy", numpy.__version__, numpy.__file__)
options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not multiprocess"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""


def lowest() -> str:
    """The requirement of the oldest numpy that the package says it works with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = (d for d in project["dependencies"] if d.startswith("numpy"))
    found = re.fullmatch(r"numpy>=(\d+\.\d+)", bound)
    assert found is not None, bound
    return f"numpy=={found[1]}.*"


@pytest.mark.parametrize("bound", ["lowest", "highest"])
def test_numbers_are_right_with_every_numpy_pitfall_T27(bound: str, tmp_path: Path) -> None:
    requirement = lowest() if bound == "lowest" else "numpy"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary"]
    subprocess.run([*command, ":all:", "--target", tmp_path, requirement], check=True)
    (info,) = tmp_path.glob("numpy-*.dist-info")
    version = info.name.removeprefix("numpy-").removesuffix(".dist-info")
    if version == np.__version__:
        return  # the whole suite runs with it
    done = subprocess.run(
        [sys.executable, "-c", CODE, *(f"tests/{part}" for part in TESTED)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.stdout.startswith(f"numpy {version} {tmp_path}"), done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\n[1-9]\d\d passed", done.stdout), done.stdout[-2000:]
