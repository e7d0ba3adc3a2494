"""A first spec, guessed from a log: `recmtl init`."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recmtl._checks import suggest
from recmtl.config import RunConfig
from recmtl.data import Log, open_log
from recmtl.data.dtypes import family, inner
from recmtl.doctor.column_roles import Column, is_binary, look_at
from recmtl.doctor.leakage import SAMPLE_ROWS, find_leaks, read_sample
from recmtl.errors import DataError
from recmtl.spec.dump import one_line
from recmtl.spec.yaml_loader import parse_yaml

__all__ = ["guess_spec"]

_DIMS = ((10, 4), (1_000, 8))
"""Width of the embedding by number of values; 16 beyond."""
_FIRST_ROWS, _SAMPLE_BYTES = 1_000, 1 << 29
_RARE = 1_000
_HUGE = 100_000
_SKEW = 20.0
_OVERLAP = 0.5
_GENERIC = frozenset({"", "train", "training", "data", "log", "logs"})
_TASK_NAME = re.compile(r"[^0-9a-zA-Z_]+")

_HEAD = """\
# Guessed by `recmtl init` from {path}: {rows:,} rows, of which {sample:,} were looked at.
# A guess to be edited. Look above all for columns that are known only after the outcome; then run
# `recmtl doctor` on this file.
"""


class _Line(NamedTuple):
    """An entry of a list of the spec, and what was seen."""

    entry: dict[str, Any]
    remark: str


def guess_spec(path: str | Path, *, labels: Sequence[str] = (), folder: Path | None = None) -> str:
    """A spec for the log in `path`, as YAML with a remark at each column.

    Outcomes are columns of 0 and 1 with a name such as `click`, `conversion` or `is_like`; a
    conversion that never comes without a click is taken as given the click. What gives an outcome
    away is left out, and says so.

    Args:
        path: file, folder or glob.
        labels: columns that are outcomes (default: guessed from names and values).
        folder: where the spec will lie; `path` is written relative to it (default: as it is).

    Raises:
        DataError: no file, or no column that looks like an outcome.
    """
    log = open_log(path)
    unread = [name for name, dtype in log.schema.items() if inner(dtype).is_nested()]
    read = [name for name in log.schema if name not in unread]
    frame = read_sample(log, read, _sample_rows(log, read))
    columns = [look_at(frame[name]) for name in frame.columns]
    outcomes = _outcomes(log, columns, labels)
    tasks = _tasks(frame, outcomes)
    taken = {column.name for column in outcomes}
    weight = next((c.name for c in columns if c.is_weight and c.name not in taken), None)
    time = _time(columns, taken)
    taken |= {name for name in (weight, time) if name is not None}
    left_out = dict.fromkeys(unread, "nested")
    left_out |= {c.name: c.useless for c in columns if c.useless and c.name not in taken}
    unnamed = "looks like an outcome: name it with `--label` to predict it"
    others = [c.name for c in columns if c.is_outcome and is_binary(c) and c.name not in taken]
    left_out |= dict.fromkeys(others, unnamed)
    usable = [c for c in columns if c.name not in taken and c.name not in left_out]
    if not usable:
        raise DataError(f"{log.name}: no column is left to predict from. Look at the columns.")
    source = str(path) if folder is None else _relative(Path(path), folder)
    user = next((c.name for c in columns if c.is_user), None)
    head: dict[str, Any] = {"name": _title(Path(path))}
    data: dict[str, Any] = {"train": source, **_split(time, user, usable)}
    data |= {} if weight is None else {"weight": weight}
    data |= {} if user is None else {"group_by": user}
    sections = {**head, "data": data, "tasks": [line.entry for line in tasks], "tower": "mmoe"}
    features, leaks = _without_leaks(usable, frame, sections)
    text = _HEAD.format(path=_printable(str(path)), rows=log.num_rows, sample=frame.height)
    text += _yaml(head) + "data:\n" + "".join(f"  {line}\n" for line in _yaml(data).splitlines())
    text += "features:\n" + _entries(features) + "tasks:\n" + _entries(tasks)
    text += "tower: {kind: mmoe}\ntrain: {batch_size: 4096, epochs: 1, lr: 0.001}\n"
    listed = {**leaks, **{name: str(reason) for name, reason in left_out.items()}}
    if time is not None and not isinstance(data.get("valid"), dict):
        listed[time] = "a time"
    if listed:
        lines = [_printable(f"#   {name}: {reason}") for name, reason in listed.items()]
        text += "# Left out:\n" + "".join(f"{line}\n" for line in lines)
    parse_yaml(
        RunConfig, text, source=f"the spec guessed from {path}"
    )  # what is written can be read
    return text


def _sample_rows(log: Log, columns: list[str]) -> int:
    """Rows of a sample: fewer where they are wide."""
    first = log.read(columns, 0, _FIRST_ROWS)
    row_bytes = max(first.estimated_size() / first.height, 1.0)
    return min(SAMPLE_ROWS, max(_FIRST_ROWS, int(_SAMPLE_BYTES / row_bytes)))


def _outcomes(log: Log, columns: list[Column], labels: Sequence[str]) -> list[Column]:
    known = {column.name: column for column in columns}
    if labels:
        problems = []
        for name in labels:
            if name not in known:
                problems.append(
                    f"{log.name}: there is no column `{name}` to be a label.{suggest(name, known)}"
                )
            elif known[name].middle is None or known[name].is_list:
                problems.append(
                    f"{log.name}: column `{name}` is {known[name].dtype}: a label is a number."
                    " Write it as one, for example 0 and 1."
                )
        if problems:
            raise DataError.all_of(problems)
        return [known[name] for name in dict.fromkeys(labels)]
    found = [column for column in columns if column.is_outcome and is_binary(column)]
    if found:
        return sorted(found, key=lambda c: 0 if c.is_click else 1 if c.is_conversion else 2)
    binary = [f"`{column.name}`" for column in columns if is_binary(column)]
    hint = f" Columns of 0 and 1: {', '.join(binary)}." if binary else ""
    raise DataError(
        f"{log.name}: no column of 0 and 1 has the name of an outcome, such as `click` or"
        f" `conversion`.{hint} Say which it is with `--label`."
    )


def _tasks(frame: pl.DataFrame, outcomes: list[Column]) -> list[_Line]:
    click = next((c for c in outcomes if c.is_click and is_binary(c)), None)
    lines: list[_Line] = []
    names: set[str] = set()
    for column in outcomes:
        rate = f"{float(frame[column.name].cast(pl.Float64).mean() or 0.0):.3%} of the rows"  # type: ignore[arg-type]
        name = _unused(_name(column.name) or "task", names)
        entry: dict[str, Any] = {"name": name, "label": column.name}
        if not is_binary(column):
            classes = column.num_classes
            rate = "a number" if classes is None else f"{classes} classes were seen"
            kind = {"kind": "multiclass", "classes": classes}
            entry |= {"kind": "regression"} if classes is None else kind
        is_given = click is not None and column.is_conversion and _implies(frame, column, click)
        if column is click:
            entry["name"] = _unused("ctr", names)
        elif is_given and click is not None and "cvr" not in names:
            both = [_unused("cvr", names), _unused("ctcvr", names)]
            lines.append(
                _Line(
                    {"name": both[0], "label": column.name, "given": click.name},
                    f"{rate}; never without {click.name}",
                )
            )
            lines.append(
                _Line({"name": both[1], "label": column.name, "product_of": ["ctr", "cvr"]}, "")
            )
            continue
        elif is_given and click is not None:
            entry["given"] = click.name
        lines.append(_Line(entry, rate))
    return lines


def _implies(frame: pl.DataFrame, outcome: Column, condition: Column) -> bool:
    """Whether the outcome never comes where the condition is 0."""
    if not is_binary(outcome):
        return False
    happened = frame[outcome.name].cast(pl.Float64).fill_null(0.0) == 1.0
    allowed = frame[condition.name].cast(pl.Float64).fill_null(0.0) == 1.0
    return not (happened & ~allowed).any()


def _time(columns: list[Column], taken: set[str]) -> str | None:
    times = [c for c in columns if c.is_time and c.name not in taken and not c.null_share]
    return max(times, key=lambda c: c.num_values).name if times else None


def _split(time: str | None, user: str | None, usable: list[Column]) -> dict[str, Any]:
    if time is not None:
        return {"valid": {"last": 0.1, "by": time}}
    keys = [c for c in usable if c.is_category and c.num_values > _DIMS[0][0]]
    by = user or (max(keys, key=lambda c: c.num_values).name if keys else None)
    return {} if by is None else {"valid": {"fraction": 0.1, "by": by}}


def _feature(column: Column, usable: list[Column], frame: pl.DataFrame) -> _Line:
    seen = f"{column.num_values:,} values"
    if column.null_share:
        seen += f", {column.null_share:.1%} null"
    entry: dict[str, Any] = {"name": column.name}
    if column.vector_dim is not None:
        seen = f"{column.null_share:.1%} null" if column.null_share else ""
        return _Line({**entry, "type": "vector", "dim": column.vector_dim}, seen)
    if column.is_history:
        entry["type"] = "sequence"
        item = _table_of(column, usable, frame)
        entry |= {"table": item} if item is not None else _rows(column)
        return _Line({**entry, "max_len": 50}, seen)
    if column.is_list:
        return _Line({**entry, "type": "sparse", **_rows(column), "pooling": "mean"}, seen)
    if column.is_category:
        return _Line({**entry, "type": "sparse", **_rows(column)}, seen)
    entry["type"] = "dense"
    if column.low is not None and column.high is not None and column.middle is not None:
        seen = f"{column.low:g} to {column.high:g}, median {column.middle:g}"
        if column.null_share:
            seen += f", {column.null_share:.1%} null"
        far = max(abs(column.low), abs(column.high)) > _SKEW * (abs(column.middle) + 1)
        if far:
            entry["transform"] = "log1p" if column.low >= 0 else "signed_log1p"
    return _Line(entry, seen)


def _rows(column: Column) -> dict[str, Any]:
    """How values become table rows, and the width of the table."""
    dim = next((dim for limit, dim in _DIMS if column.num_values <= limit), 16)
    if column.num_values > _HUGE:
        return {"hash": 1_000_000, "dim": dim}
    return {"vocab": {"min_count": 2} if column.num_values > _RARE else {}, "dim": dim}


def _table_of(column: Column, usable: list[Column], frame: pl.DataFrame) -> str | None:
    """The single-valued id column whose values the items are."""
    items = frame[column.name].explode(empty_as_null=False).drop_nulls().unique()
    best, share = None, _OVERLAP
    for other in usable:
        is_id = other.is_category and not other.is_list and not other.is_user
        if not is_id or family(inner(column.dtype)) != family(other.dtype) or not len(items):
            continue
        values = frame[other.name].drop_nulls().unique()
        if other.num_values < column.num_values / 10 or other.num_values <= _DIMS[0][0]:
            continue
        found = float(items.cast(values.dtype, strict=False).is_in(values.implode()).mean() or 0.0)  # type: ignore[arg-type]
        if found > share:
            best, share = other.name, found
    return best


def _without_leaks(
    columns: list[Column], frame: pl.DataFrame, sections: dict[str, Any]
) -> tuple[list[_Line], dict[str, str]]:
    """Features that don't give an outcome away, with a remark at those that nearly do; the others.

    Where all of them do, all are kept: `doctor` says so.
    """
    lines = [_feature(column, columns, frame) for column in columns]
    config = parse_yaml(RunConfig, _yaml({**sections, "features": [line.entry for line in lines]}))
    found = {finding.where: finding for finding in find_leaks(frame, config)}
    about = {column.name: found.get(f"column `{column.name}`") for column in columns}
    leaks = {
        name: finding.what
        for name, finding in about.items()
        if finding is not None and finding.severity == "error"
    }
    kept = [column for column in columns if column.name not in leaks]
    if not kept:
        return lines, {}
    lines = []
    for column in kept:
        line, finding = _feature(column, kept, frame), about[column.name]
        remark = line.remark if finding is None else f"{finding.what} {finding.advice}"
        lines.append(line._replace(remark=remark))
    return lines, leaks


def _entries(lines: Sequence[_Line]) -> str:
    texts = [f"  - {one_line(line.entry)}" for line in lines]
    width = min(max(len(text) for text in texts), 100)
    return "".join(
        f"{text.ljust(width)}  # {_printable(line.remark)}\n" if line.remark else f"{text}\n"
        for text, line in zip(texts, lines, strict=True)
    )


def _yaml(mapping: dict[str, Any]) -> str:
    return "".join(f"{key}: {one_line(value)}\n" for key, value in mapping.items())


def _printable(text: str) -> str:
    """On one line, without control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _title(path: Path) -> str:
    """A name for the spec: that of the file, or of its folder where the file's says nothing."""
    name = _name(path.stem)
    says_nothing = name.lower() in _GENERIC or name.lower().startswith("part_")
    return (_name(path.absolute().parent.name) if says_nothing else name) or "log"


def _name(text: str) -> str:
    """The text as an identifier, or nothing."""
    name = _TASK_NAME.sub("_", text).strip("_")
    return f"t_{name}" if name[:1].isdigit() or keyword.iskeyword(name) else name


def _unused(name: str, names: set[str]) -> str:
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    names.add(found)
    return found


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from a folder."""
    return os.path.relpath(path.absolute(), folder.absolute())
