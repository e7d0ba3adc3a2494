"""`python -m recmtl ...` that leaves when its parent does: ``python -P .../child.py ARGUMENTS``.

Its stdin is a pipe that the parent holds: when it closes, by whatever end the parent comes to, this
process ends at once. A training that is ended so goes on where it stopped when it is called again.
"""

from __future__ import annotations

import os
import runpy
import threading

__all__: list[str] = []


def main() -> None:
    """Be `python -m recmtl` with the same arguments."""
    threading.Thread(target=_leave_with_the_parent, name="recmtl-lifeline", daemon=True).start()
    runpy.run_module("recmtl", run_name="__main__", alter_sys=True)


def _leave_with_the_parent() -> None:
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main()
