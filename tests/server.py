"""A process that runs `recmtl` in forks of itself: five seconds of imports are paid once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Server:
    """Answers calls of `recmtl`, which may end themselves at a point (see `kill_at`)."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, str(ROOT / "tests/kill_at.py"), "--serve"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, point: dict[str, Any] | None, *args: object) -> tuple[int, str]:
        """Exit code (-9 of a process that was killed) and standard error of `recmtl ARGS`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([point, [str(arg) for arg in args]]) + "\n")
        self.process.stdin.flush()
        code, err = json.loads(self.process.stdout.readline())
        return code, err

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
