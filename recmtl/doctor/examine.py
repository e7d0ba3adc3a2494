"""Everything the doctor looks at, in the order in which one thing makes the next one possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from recmtl._torchrec import check_versions
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, Log, Splits, check_columns, open_splits
from recmtl.doctor.findings import Finding, by_severity, from_error, raise_errors
from recmtl.doctor.leakage import find_leaks
from recmtl.doctor.values import encode_all
from recmtl.embeddings import layout
from recmtl.errors import DataError, RecMTLError, SpecError
from recmtl.run import versions

__all__ = ["examine", "require_healthy", "require_memory"]

_FEW_POSITIVES = 100
_MANY_UNKNOWN = 0.2
_MEMORY_SHARE = 0.9


def examine(
    spec: str | Path, *, data: str | Path | None = None, overrides: Sequence[str] = ()
) -> list[Finding]:
    """Check versions, spec, data, labels, leakage, unknown ids and memory; nothing is changed.

    Args:
        spec: the spec file.
        data: folder of the data (default: the folder of the spec).
        overrides: changes of the spec, such as ``"tower=ple"``.

    Returns:
        Findings sorted by severity.
    """
    findings = _versions()
    try:
        config = load_spec(spec, overrides)
    except RecMTLError as error:
        return by_severity([*from_error(error), *findings])
    data_dir = Path(data) if data is not None else Path(spec).parent
    try:
        splits = open_splits(config.data, data_dir)
        findings += _columns(config, splits)
        if not any(
            finding.severity == "error"
            for finding in findings
            if finding.exit_code == DataError.exit_code
        ):
            findings += find_leaks(splits.train, config)
            findings += _encoded(config, splits)
    except RecMTLError as error:
        findings += from_error(error)
    return by_severity(findings)


def require_healthy(config: RunConfig, splits: Splits) -> list[Finding]:
    """Refuse what training must not start with: columns that do not fit, and leaked labels.

    Returns:
        The findings that are not errors.

    Raises:
        DataError: with all problems.
    """
    findings = _columns(config, splits)
    raise_errors(findings, {3: DataError})
    findings += find_leaks(splits.train, config)
    raise_errors(findings, {3: DataError})
    return by_severity(findings)


def require_memory(config: RunConfig, encoders: Encoders) -> None:
    """Refuse tables that do not fit this machine.

    Raises:
        SpecError: says how large each table is and what to change.
    """
    raise_errors(_memory(config, encoders), {2: SpecError})


def _columns(config: RunConfig, splits: Splits) -> list[Finding]:
    findings: list[Finding] = []
    for log in (splits.train, splits.valid):
        if log is not None:
            findings += _caught(lambda log=log: check_columns(log, config, labels=True))  # type: ignore[misc]  # bound now
    return findings


def _versions() -> list[Finding]:
    found = versions()
    text = ", ".join(f"{name} {version}" for name, version in found.items() if name != "platform")
    return [*_caught(check_versions), Finding("info", "versions", f"{text}.")]


def _encoded(config: RunConfig, splits: Splits) -> list[Finding]:
    """Findings that need fitted encoders: labels, unknown ids, memory."""
    try:
        encoders = Encoders.fit(config, train=splits.train)
    except RecMTLError as error:
        return from_error(error)
    findings = _labels(config, encoders)
    findings += _memory(config, encoders)
    if splits.valid is not None:
        findings += _unknown(encoders, splits.valid)
    return findings


def _labels(config: RunConfig, encoders: Encoders) -> list[Finding]:
    findings = []
    for task in config.tasks:
        population = encoders.populations.get(task.name)
        if population is None:
            continue
        if task.kind == "regression":
            mean, std = encoders.label_scales[task.name]
            text = (
                f"{population.rows:,} observed rows, mean {mean:.4g}, standard deviation {std:.4g}."
            )
            findings.append(Finding("info", f"task `{task.name}`", text))
            continue
        rows, positives = population.rows, population.positives
        rate = positives / rows if rows else 0.0
        text = f"{positives:,} positives in {rows:,} observed rows ({100 * rate:.2f} %)."
        if min(positives, rows - positives) < _FEW_POSITIVES:
            advice = (
                "A class this small can hardly be learned: take more rows, or leave the task out."
            )
            findings.append(Finding("warning", f"task `{task.name}`", text, advice))
        else:
            findings.append(Finding("info", f"task `{task.name}`", text))
    return findings


def _memory(config: RunConfig, encoders: Encoders) -> list[Finding]:
    tables = layout(config, encoders.tables, encoders.single, encoders.bags)
    sizes = tables.table_bytes(config.train.embedding.optimizer)
    total, machine = sum(sizes.values()), psutil.virtual_memory().total
    text = (
        f"tables and their optimizer state take {_size(total)}, the machine has {_size(machine)}."
    )
    largest = max(sizes, key=lambda table: sizes[table], default="")
    if total > _MEMORY_SHARE * machine:
        advice = (
            "Lower `dim`, raise `vocab.min_count`, or use `hash`; the largest is"
            f" `{largest}`, {_size(sizes[largest])}."
        )
        return [Finding("error", "memory", text, advice, exit_code=2)]
    return [Finding("info", "memory", text)]


def _unknown(encoders: Encoders, valid: Log) -> list[Finding]:
    try:
        counts = encode_all(encoders, valid)
    except RecMTLError as error:
        return from_error(error)
    findings = []
    for name, counted in counts.features.items():
        share = counted.oov / counted.values if counted.values else 0.0
        what = f"{100 * share:.2f} % of the validation values are out-of-vocabulary."
        if share > _MANY_UNKNOWN:
            advice = "Lower `vocab.min_count`, use `hash`, or check that both come from one source."
            findings.append(Finding("warning", f"feature `{name}`", what, advice))
        elif counted.oov:
            findings.append(Finding("info", f"feature `{name}`", what))
    return findings


def _caught(check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except RecMTLError as error:
        return from_error(error)
    return []


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.1f} {unit}" if unit != "B" else f"{int(size_bytes)} B"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
