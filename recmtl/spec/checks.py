"""What must hold between the keys of a spec.

The checks work on plain data, so that one wrong key hides no other problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recmtl._checks import suggest
from recmtl.spec._base import Problem
from recmtl.spec.names import task_name_problem

__all__ = ["column_problems", "feature_problems", "task_problems"]

SOURCES = ("vocab", "hash", "buckets")
"""Keys that say how a value becomes a row of its table."""

TABLELESS = {"dense": "dense", "vector": "a vector"}
"""Types of features that are no rows of a table, and how one is called."""

Data = Mapping[str, Any]


def feature_problems(data: Data) -> list[Problem]:
    """Names, tables, targets and behaviours of the features."""
    problems = _empty_or_repeated(data, "features", "feature")
    by_name = {name: f for _, f in entries(data, "features") if (name := text(f, "name"))}
    for i, feature in entries(data, "features"):
        if feature.get("type") in ("sparse", "sequence"):
            problems += _table_problems(i, feature, by_name)
        if feature.get("type") == "sequence":
            problems += _target_problems(i, feature, by_name)
    return [*problems, *_behaviour_problems(data)]


def task_problems(data: Data) -> list[Problem]:
    """Names, conditions and products of the tasks."""
    problems = _empty_or_repeated(data, "tasks", "task")
    tasks = [(i, task) for i, task in entries(data, "tasks")]
    by_name = {name: task for _, task in tasks if (name := text(task, "name"))}
    labels = {text(task, "label") for _, task in tasks}
    for i, task in tasks:
        name, given = text(task, "name"), text(task, "given")
        if name is not None and (wrong := task_name_problem(name)) is not None:
            problems.append(Problem(("tasks", i, "name"), wrong))
        group = text(task, "group")
        if group is not None and (wrong := task_name_problem(group, "group")) is not None:
            problems.append(Problem(("tasks", i, "group"), wrong))
        if group not in (None, "all") and task.get("product_of") is not None:
            message = "`group` says nothing of a product, which has no head. Remove it."
            problems.append(Problem(("tasks", i, "group"), message))
        problems += _calibration_problems(i, task, data)
        if given is not None and given == text(task, "label"):
            message = (
                f"`given` is its own label `{given}`: wherever it is observed the label would be 1."
            )
            problems.append(Problem(("tasks", i, "given"), message))
        elif given in by_name and given not in labels:
            label = text(by_name[given], "label")
            hint = f" Did you mean its label `{label}`?" if label else ""
            problems.append(
                Problem(
                    ("tasks", i, "given"),
                    f"`given` must be a column, got the task `{given}`.{hint}",
                )
            )
        if task.get("product_of") is not None:
            problems += _product_problems(i, task, by_name)
        problems += _class_problems(i, task, tasks)
    if tasks and all(task.get("product_of") is not None for _, task in tasks):
        problems.append(
            Problem(
                ("tasks",),
                "every task is a product: at least one task must be without `product_of`.",
            )
        )
    return problems


def column_problems(data: Data) -> list[Problem]:
    """Columns with two purposes that exclude each other, above all a label among the features."""
    problems: list[Problem] = []
    section = data.get("data")
    rows: Data = section if isinstance(section, Mapping) else {}
    weight = text(rows, "weight")
    answers = {c: "the sample weight, `data.weight`" for c in [weight] if c}
    for key, what in (("given", "the condition `given` of task"), ("label", "the label of task")):
        for _, task in reversed(list(entries(data, "tasks"))):
            if column := text(task, key):
                answers[column] = f"{what} `{task.get('name')}`"
    for i, feature in entries(data, "features"):
        for key in ("name", "weights"):
            column = text(feature, key)
            if column in answers:
                problems.append(Problem(("features", i, key), _leak(column, answers[column])))
    for i, task in entries(data, "tasks"):
        if weight and text(task, "label") == weight:
            problems.append(
                Problem(
                    ("tasks", i, "label"), f"`label` is the sample weight, `data.weight: {weight}`."
                )
            )
    return [*problems, *_row_problems(data, rows), *_sampled_problems(data, rows)]


def _leak(column: str | None, answer: str) -> str:
    return f"column `{column}` is {answer}: a model must not see it. Remove the feature."


def _row_problems(data: Data, rows: Data) -> Iterator[Problem]:
    if text(rows, "valid") is not None and text(rows, "valid") == text(rows, "train"):
        message = (
            "`valid` must be other rows than `train`. "
            "Write `{fraction: 0.1, by: <column>}` to split them."
        )
        yield Problem(("data", "valid"), message)
    for key in ("segments", "keep", "accept_leaks"):
        columns = [c for c in _list(rows, key) if isinstance(c, str)]
        for column in sorted({c for c in columns if columns.count(c) > 1}):
            yield Problem(("data", key), f"`{key}` must name a column once, got `{column}` twice.")
    names = [text(f, "name") for _, f in entries(data, "features")]
    known = [column for column in names if column]
    for i, column in enumerate(_list(rows, "accept_leaks")):
        if isinstance(column, str) and known and column not in known:
            message = f"`accept_leaks` must name features, got `{column}`.{suggest(column, known)}"
            yield Problem(("data", "accept_leaks", i), message)
    names = [text(task, "name") for _, task in entries(data, "tasks")]
    outputs = {f"{prefix}_{name}": name for name in names for prefix in ("probs", "pred")}
    for i, column in enumerate(_list(rows, "keep")):
        if isinstance(column, str) and column in outputs:
            task = outputs[column]
            message = f"`keep` must not name the output column `{column}` of task `{task}`."
            yield Problem(("data", "keep", i), message)


def _sampled_problems(data: Data, rows: Data) -> Iterator[Problem]:
    tasks = [task for _, task in entries(data, "tasks")]
    labels = [text(task, "given") for task in tasks]
    labels += [text(t, "label") for t in tasks if t.get("kind", "binary") == "binary"]
    known = [column for column in dict.fromkeys(labels) if column]
    for key in ("sampled", "sample"):
        thinned = rows.get(key)
        keep = thinned.get("keep") if isinstance(thinned, Mapping) else None
        for column in keep if isinstance(keep, Mapping) and known else ():
            if column != "else" and column not in known:
                message = (
                    f"`keep` must name labels or conditions of 0 and 1, and `else`, got `{column}`."
                    f"{suggest(str(column), [*known, 'else'])}"
                )
                yield Problem(("data", key, "keep", column), message)


def _empty_or_repeated(data: Data, key: str, word: str) -> list[Problem]:
    if isinstance(data.get(key), list | tuple) and not data[key]:
        return [Problem((key,), f"`{key}` must declare at least one {word}.")]
    seen: set[str] = set()
    problems: list[Problem] = []
    for i, item in entries(data, key):
        name = text(item, "name")
        if name in seen:
            problems.append(
                Problem((key, i, "name"), f"another {word} has the same name. Names must differ.")
            )
        if name is not None:
            seen.add(name)
    return problems


def _table_problems(i: int, feature: Data, by_name: Mapping[str, Data]) -> Iterator[Problem]:
    name, table = text(feature, "name"), text(feature, "table")
    sources = [key for key in SOURCES if feature.get(key) is not None]
    if table is None or table == name:
        if not sources:
            message = (
                "one of `vocab`, `hash` and `buckets` must say how a value becomes a row, "
                "or `table` whose rows it shares."
            )
            yield Problem(("features", i, SOURCES[0]), message)
        if len(sources) > 1:
            given = " and ".join(f"`{s}`" for s in sources)
            yield Problem(
                ("features", i, sources[1]),
                f"only one of `vocab`, `hash` and `buckets` may be given, got {given}.",
            )
        if feature.get("dim") is None:
            yield Problem(("features", i, "dim"), "missing key `dim`, the width of its table.")
        return
    owner = by_name.get(table)
    if owner is None:
        named = [n for n, f in by_name.items() if text(f, "type") not in TABLELESS and n != name]
        yield Problem(
            ("features", i, "table"),
            f"`table` must name a feature, got `{table}`.{suggest(table, named)}",
        )
    elif (kind := text(owner, "type")) in TABLELESS:
        message = f"`table` must name a feature with a table, and `{table}` is {TABLELESS[kind]}."
        yield Problem(("features", i, "table"), message)
    elif (further := text(owner, "table")) not in (None, table):
        message = (
            f"`table` must name the table's own feature, and `{table}` shares that of `{further}`. "
            f"Write `{further}`."
        )
        yield Problem(("features", i, "table"), message)
    for key in [*sources, *(["dim"] if feature.get("dim") is not None else [])]:
        yield Problem(
            ("features", i, key),
            f"`{key}` must not be given beside `table: {table}`: feature `{table}` says it.",
        )


def _target_problems(i: int, feature: Data, by_name: Mapping[str, Data]) -> Iterator[Problem]:
    target = text(feature, "target")
    if target is None:
        return
    single = [
        n for n, f in by_name.items() if f.get("type") == "sparse" and f.get("weights") is None
    ]
    if target not in single:
        message = f"`target` must name a single-valued sparse feature, got `{target}`."
        message += suggest(target, single)
        yield Problem(("features", i, "target"), message)


def _behaviour_problems(data: Data) -> Iterator[Problem]:
    first: dict[str, Data] = {}
    others = {text(f, "name") for _, f in entries(data, "features") if f.get("type") != "sequence"}
    for i, feature in entries(data, "features"):
        if feature.get("type") != "sequence":
            continue
        behaviour = text(feature, "behaviour") or "history"
        if behaviour in others and behaviour not in first:
            message = (
                f"`behaviour` must not be the name of a feature that is no sequence, got "
                f"`{behaviour}`. Write another word, such as `behaviour: clicks`."
            )
            key = "behaviour" if "behaviour" in feature else "name"
            yield Problem(("features", i, key), message)
        other = first.setdefault(behaviour, feature)
        for key, default in (("max_len", None), ("keep_last", True)):
            ours, theirs = feature.get(key, default), other.get(key, default)
            if ours is not None and theirs is not None and ours != theirs:
                message = (
                    f"`{key}` must be the same for all sequences of behaviour `{behaviour}`, which "
                    f"are aligned: got {str(ours).lower()}, and `{other.get('name')}` has "
                    f"{str(theirs).lower()}."
                )
                yield Problem(("features", i, key), message)


def _calibration_problems(i: int, task: Data, data: Data) -> Iterator[Problem]:
    method, kind = text(task, "calibration"), text(task, "kind") or "binary"
    if method in (None, "none"):
        return
    path = ("tasks", i, "calibration")
    if task.get("product_of") is not None:
        message = (
            "`calibration` is not for a product, which stays the product of its factors. Calibrate "
            "these."
        )
        yield Problem(path, message)
    elif kind in ("regression", "multiclass"):
        message = f"`calibration` is for `kind: binary`, and the kind is `{kind}`. Remove it."
        yield Problem(path, message)
    section = data.get("data")
    if isinstance(section, Mapping) and section.get("valid") is None:
        message = "`calibration` is fitted to validation rows. Write `data.valid`, or remove it."
        yield Problem(path, message)


def _class_problems(i: int, task: Data, tasks: list[tuple[int, Data]]) -> Iterator[Problem]:
    kind, given = text(task, "kind") or "binary", text(task, "given")
    if kind == "multiclass" and task.get("classes") is None:
        message = "missing key `classes`, the number of classes of `kind: multiclass`."
        yield Problem(("tasks", i, "classes"), message)
    if kind in ("binary", "regression") and task.get("classes") is not None:
        message = (
            f"`classes` belongs to `kind: multiclass`, and the kind is `{kind}`. Remove it, or "
            "write `kind: multiclass`."
        )
        yield Problem(("tasks", i, "classes"), message)
    for _, other in tasks:
        is_label = given is not None and given == text(other, "label")
        if is_label and other is not task and text(other, "kind") == "multiclass":
            message = (
                f"`given` must be a column of 0 and 1, and `{given}` is the label of the "
                f"multiclass task `{other.get('name')}`."
            )
            yield Problem(("tasks", i, "given"), message)
            return


def _product_problems(i: int, task: Data, by_name: Mapping[str, Data]) -> Iterator[Problem]:
    path = ("tasks", i, "product_of")
    factors = [f for f in _list(task, "product_of") if isinstance(f, str)]
    if len(set(factors)) < 2:
        yield Problem(path, "`product_of` must name at least two different tasks.")
    elif len(set(factors)) < len(factors):
        yield Problem(path, "`product_of` must name a task once.")
    if task.get("kind") in ("regression", "multiclass"):
        yield Problem(("tasks", i, "kind"), "a product is a probability: `kind` must be `binary`.")
    name = text(task, "name")
    for j, factor in enumerate(_list(task, "product_of")):
        if not isinstance(factor, str):
            continue
        other = by_name.get(factor)
        if other is None or factor == name:
            known = [n for n, t in by_name.items() if n != name and t.get("product_of") is None]
            message = f"`product_of` must name other tasks, got `{factor}`.{suggest(factor, known)}"
            yield Problem((*path, j), message)
        elif other.get("product_of") is not None:
            yield Problem(
                (*path, j),
                f"`product_of` must not name a product, and `{factor}` is one. Name its factors.",
            )
        elif other.get("kind") in ("regression", "multiclass"):
            what = "a regression" if other["kind"] == "regression" else "multiclass"
            yield Problem(
                (*path, j), f"`product_of` must name binary tasks, and `{factor}` is {what}."
            )


def entries(data: Data, key: str) -> Iterator[tuple[int, Data]]:
    """The mappings of a list, with their positions; whatever else is in it is passed over."""
    for i, item in enumerate(_list(data, key)):
        if isinstance(item, Mapping):
            yield i, item


def text(data: Data, key: str) -> str | None:
    """The string at a key, `None` for anything else."""
    value = data.get(key)
    return value if isinstance(value, str) else None


def _list(data: Data, key: str) -> list[Any]:
    value = data.get(key)
    return list(value) if isinstance(value, list | tuple) else []
