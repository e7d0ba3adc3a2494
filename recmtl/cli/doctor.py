"""`recmtl doctor SPEC`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from recmtl.cli.app import data_option, debug_option, emit, json_option

__all__ = ["command"]


@click.command("doctor")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_option
@json_option
@debug_option
def command(spec: Path, overrides: tuple[str, ...], data: Path | None, as_json: bool) -> None:
    """Check spec, data, labels, leakage, versions and memory; change nothing.

    It ends with the code that `train` would end with.
    """
    from recmtl.doctor import examine, exit_code

    findings = examine(spec, data=data, overrides=overrides)
    lines = [f"{finding.severity:8}{finding}" for finding in findings]
    words = {"error": "error", "warning": "warning", "info": "note"}
    counts = {word: sum(f.severity == s for f in findings) for s, word in words.items()}
    told = [f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items()]
    lines.append("\n" + ", ".join(told))
    emit({"findings": [asdict(f) for f in findings]}, as_json=as_json, text="\n".join(lines))
    if code := exit_code(findings):
        click.get_current_context().exit(code)
