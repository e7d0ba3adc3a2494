"""Runs the examples in the docstrings of packages, with nothing but Python's own doctest.

python tests/docstrings.py recmtl.losses recmtl.metrics

A line for each package: its name, how many examples it has, and how many of them failed.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(name: str) -> tuple[int, int]:
    """Examples of a package and its modules, and how many of them failed."""
    package = importlib.import_module(name)
    names = [name, *(part.name for part in pkgutil.walk_packages(package.__path__, f"{name}."))]
    found = [doctest.testmod(importlib.import_module(n), optionflags=FLAGS) for n in names]
    return sum(part.attempted for part in found), sum(part.failed for part in found)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(f"{name} {' '.join(map(str, run(name)))}\n")
