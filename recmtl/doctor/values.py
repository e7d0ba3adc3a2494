"""Validation values: what would end training at its first validation is found before it begins."""

from __future__ import annotations

from recmtl._progress import Progress, no_progress
from recmtl.data import EncodeCounts, Encoders, Log
from recmtl.doctor.findings import Finding
from recmtl.errors import DataError

__all__ = ["encode_all", "unknown_findings"]

_PIECE_ROWS = 131_072
_MANY_UNKNOWN = 0.2


def encode_all(encoders: Encoders, log: Log, *, progress: Progress = no_progress) -> EncodeCounts:
    """Encode every row of a log, keep nothing but the counts.

    Raises:
        DataError: a value or a label that the spec forbids; names the file and the column.
    """
    counts = EncodeCounts()
    piece_rows = min(encoders.piece_rows, _PIECE_ROWS)
    with progress("check validation rows", log.num_rows, "rows") as bar:
        for start in range(0, log.num_rows, piece_rows):
            frame = log.read(encoders.columns(labels=True), start, start + piece_rows)
            try:
                encoders.encode(frame, labels=True, counts=counts)
            except DataError as error:
                raise error.at(log.name) from error
            bar.advance(frame.height)
    return counts


def unknown_findings(counts: EncodeCounts) -> list[Finding]:
    """How many validation values the vocabularies do not have."""
    findings = []
    for name, counted in counts.features.items():
        if not counted.oov:
            continue
        share = counted.oov / counted.values
        where = f"feature `{name}`"
        what = f"{100 * share:.2f} % of the validation values are out-of-vocabulary."
        if share > _MANY_UNKNOWN:
            advice = "Lower `vocab.min_count`, use `hash`, or check that both come from one source."
            findings.append(Finding("warning", where, what, advice))
        else:
            findings.append(Finding("info", where, what))
    return findings
