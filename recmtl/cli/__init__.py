"""The command line: one file a command, parsing only."""

from __future__ import annotations

import sys

from recmtl._extras import naming_the_extra
from recmtl.errors import MissingExtraError

__all__ = ["main"]


def main(args: list[str] | None = None) -> None:
    """Run the command line; without the packages it is made of, say which extra brings them.

    Args:
        args: what follows `recmtl` on the command line (default: that of this process).
    """
    try:
        with naming_the_extra("`recmtl`"):
            from recmtl.cli.app import main as run
    except MissingExtraError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    run(args)
