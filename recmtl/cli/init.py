"""`recmtl init --from FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("init")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help="The log: a file, a folder or a glob.",
)
@click.option("--label", "labels", multiple=True, help="A column that is an outcome (repeatable).")
@click.option("--out", type=click.Path(path_type=Path), help="Write the spec to this file.")
@json_option
@debug_option
def command(source: Path, labels: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Guess a first spec from a log, to be edited.

    It goes to stdout unless OUT names a file; nothing is overwritten.
    """
    from recmtl._files import write_text
    from recmtl.doctor import guess_spec
    from recmtl.errors import SpecError

    if out is not None and out.exists():
        raise SpecError(f"{out}: exists. Choose another file; nothing was changed.")
    text = guess_spec(source, labels=labels, folder=None if out is None else out.parent)
    if out is None:
        emit({"spec": text}, as_json=as_json, text=text.removesuffix("\n"))
        return
    write_text(out, text)
    emit({"spec": text}, as_json=as_json, text=f"{out}\n\nNext: edit it, then recmtl doctor {out}")
