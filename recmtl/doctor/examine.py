"""Everything the doctor looks at, in the order in which training meets it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recmtl._torchrec import check_versions
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, Log, Splits, check_columns, open_splits
from recmtl.doctor.columns import column_findings, overlap_findings
from recmtl.doctor.findings import Finding, by_severity, from_error, raise_errors
from recmtl.doctor.labels import count_labels, label_findings, product_findings, valid_findings
from recmtl.doctor.leakage import (
    LogSample,
    find_leaks,
    read_sample,
    sampled_columns,
    sampled_rows,
)
from recmtl.doctor.machine import (
    memory_findings,
    network_findings,
    optimizer_findings,
    version_findings,
)
from recmtl.doctor.values import encode_all, unknown_findings
from recmtl.errors import RecMTLError

__all__ = ["examine", "require_healthy", "require_model"]


def examine(
    spec: str | Path, *, data: str | Path | None = None, overrides: Sequence[str] = ()
) -> list[Finding]:
    """Check spec, data, labels, leakage, unknown ids, memory and versions; nothing is changed.

    Args:
        spec: the spec file.
        data: folder of the data (default: the folder of the spec).
        overrides: changes of the spec, such as ``"tower=ple"``.

    Returns:
        Findings sorted by severity; errors in the order in which `train` meets them, so that
        `exit_code` gives what it would end with.
    """
    findings: list[Finding] = []
    try:
        config = load_spec(spec, overrides)
        findings += optimizer_findings(config)
        splits = open_splits(config, Path(data) if data is not None else Path(spec).parent)
        findings += _examine_data(config, splits)
    except RecMTLError as error:
        findings += from_error(error)
    return by_severity([*findings, *version_findings()])


def require_healthy(config: RunConfig, splits: Splits) -> list[Finding]:
    """Refuse what training must not start with.

    That is versions or columns that do not fit, leaked labels, and products whose labels are known
    on the rows of their condition alone.

    Returns:
        The findings that are not errors.

    Raises:
        MissingExtraError: TorchRec or FBGEMM is missing or does not fit.
        DataError: with all problems.
    """
    check_versions()
    findings = _columns(config, splits)
    raise_errors(findings)
    findings += find_leaks(LogSample(splits.train, config, config.data.memory_bytes), config)
    counts = count_labels(splits.train, config)
    findings += product_findings(config, counts)
    raise_errors(findings)
    findings += [found for found in label_findings(config, counts) if found.severity == "warning"]
    return by_severity(findings)


def require_model(config: RunConfig, encoders: Encoders) -> None:
    """Refuse a network that the features cannot feed, and tables that do not fit this machine.

    Raises:
        SpecError: says which feature to add, or how large the tables are and what to change.
    """
    raise_errors([*network_findings(config, encoders), *memory_findings(config, encoders)])


def _columns(config: RunConfig, splits: Splits) -> list[Finding]:
    findings: list[Finding] = []
    for log in (splits.train, splits.valid):
        try:
            if log is not None:
                check_columns(log, config, labels=True)
        except RecMTLError as error:
            findings += from_error(error)
    return list(dict.fromkeys(findings))  # of one log that is split, each problem once


def _left_out(train: Log) -> list[Finding]:
    if not train.left_out:
        return []
    what = f"`data.sample` keeps {train.num_rows:,} of {train.num_rows + train.left_out:,}."
    return [Finding("info", "training rows", what)]


def _empty_files(splits: Splits) -> list[Finding]:
    logs = {"training rows": splits.train, "validation rows": splits.valid}
    return [
        Finding("info", where, f"{len(log.empty_files):,} of {len(log.files):,} files have none.")
        for where, log in logs.items()
        if log is not None and log.empty_files
    ]


def _examine_data(config: RunConfig, splits: Splits) -> list[Finding]:
    """Each step is taken only where those that it rests on found no error."""
    findings = _columns(config, splits)
    if findings:
        return findings
    findings += [*_empty_files(splits), *_left_out(splits.train)]
    frame = read_sample(splits.train, sampled_columns(config), sampled_rows(config))
    counts = count_labels(splits.train, config)
    findings += find_leaks(LogSample(splits.train, config, config.data.memory_bytes), config)
    findings += product_findings(config, counts)
    findings += column_findings(frame, config)
    try:
        encoders = Encoders.fit(config, train=splits.train)
    except RecMTLError as error:
        return [*findings, *from_error(error)]
    findings += label_findings(config, counts)
    findings += network_findings(config, encoders)
    findings += memory_findings(config, encoders)
    if splits.valid is None:
        what = "the spec names none: nothing is known about new rows, and the last step is kept."
        advice = "Write `data.valid`, for example `{fraction: 0.1, by: <column>}`."
        return [*findings, Finding("warning", "validation rows", what, advice)]
    try:
        findings += unknown_findings(encode_all(encoders, splits.valid))
    except RecMTLError as error:
        return [*findings, *from_error(error)]
    findings += valid_findings(config, counts, count_labels(splits.valid, config))
    return [*findings, *overlap_findings(splits, config)]
