"""Check an export anywhere: every byte of it, and what it says of its golden batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recmtl.embeddings import layout
from recmtl.errors import CheckpointError
from recmtl.exporting.agreement import differences
from recmtl.exporting.golden import read_golden
from recmtl.exporting.inputs import inputs_of
from recmtl.exporting.scorer import ExportedScorer
from recmtl.run import versions

__all__ = ["verify_export"]


def verify_export(folder: str | Path) -> dict[str, Any]:
    """Compare all files with their sha256, encode the golden rows, and score them.

    Returns:
        ``format`` and ``tables``; ``files`` and ``rows``, how many were compared;
        ``max_abs_difference`` of each task from what was said when the run was exported;
        ``versions``, when it was ``exported`` and ``here``.

    Raises:
        CheckpointError: something is not as it was exported; all of it is named.
        MissingExtraError: a package that the format needs is not installed.
    """
    scorer = ExportedScorer(folder)
    certificate = scorer.certificate
    rows, inputs, expected = read_golden(scorer.path)
    problems = []
    encoders = scorer.encoders
    about = layout(scorer.config, encoders.tables, encoders.single, encoders.bags)
    if [each.described() for each in inputs_of(scorer.config, about)] != scorer.schema["inputs"]:
        problems.append(f"{scorer.path / 'schema.json'}: is not that of the encoders.")
    encoded = scorer.encode(rows)
    problems += [
        f"{scorer.path}: the golden rows are encoded to another `{name}` than they were."
        for name in encoded
        if name not in inputs or not torch.equal(encoded[name], inputs[name])
    ]
    found = differences(scorer.predict, encoded, expected, certificate["batches"])
    problems += [
        f"{scorer.path}: task `{task}` is {difference:.1e} from what was said when it was exported,"
        f" more than {certificate['tolerance']:.0e}."
        for task, difference in found.items()
        if not difference <= certificate["tolerance"]
    ]
    if problems:
        raise CheckpointError.all_of(problems)
    return {
        **certificate["export"],
        "files": len(certificate["files"]) + 1,
        "rows": rows.height,
        "max_abs_difference": {task: found[task] for task in scorer.columns()},
        "versions": {"exported": certificate["versions"], "here": versions()},
    }
