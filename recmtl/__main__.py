"""`python -m recmtl` is `recmtl`."""

from recmtl.cli import main

main()
