"""`recmtl verify DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@debug_option
def command(folder: Path, as_json: bool) -> None:
    """Check an export: every byte of it, and what it says of its golden batch.

    Ends with 5 where anything is not as it was exported.
    """
    from recmtl import api

    result = api.verify(folder)
    largest = ", ".join(f"{task} {d:.1e}" for task, d in result["max_abs_difference"].items())
    text = (
        f"{folder}: is as it was exported ({result['format']}, tables {result['tables']}): "
        f"{result['files']} files, {result['rows']} golden rows, largest difference {largest}"
    )
    emit({"ok": True, **result}, as_json=as_json, text=text)
