"""The command line: one file a command, parsing only."""

from recmtl.cli.main import main

__all__ = ["main"]
