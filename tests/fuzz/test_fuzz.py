"""A few seconds of fuzzing of each kind of file; `make fuzz` takes ten minutes for each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="it has no wheel for this platform")

SCRIPT = Path(__file__).with_name("fuzz.py")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spec", "index", "checkpoint", "encoders"])
def test_whatever_a_file_holds_the_answer_is_a_message(target: str) -> None:
    command = [sys.executable, str(SCRIPT), target, "--seconds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) > 20
