"""Hypothesis strategies for specs."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from recmtl.config import ObjectiveConfig, RunConfig, TrainConfig
from recmtl.embeddings.config import EmbeddingConfig
from recmtl.spec import (
    DataSpec,
    DenseFeature,
    SequenceFeature,
    SparseFeature,
    SplitByKey,
    SplitByTime,
    Task,
    Vocab,
)
from recmtl.towers import (
    CGCConfig,
    ESMMConfig,
    HoMEConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
)

__all__ = ["awkward_words", "columns", "run_configs", "task_names"]

AWKWARD = (
    *("no", "On", "YES", "off", "null", "~", "None", "true", "FALSE", "0123", "1_000", "1e-3"),
    *("0x1F", "12:30", "2024-05-01", ".inf", ".NaN", "<<", "=", "- a", "a: b", "a #b", "#", "&a"),
    *("*a", "!t", "%", "@", "`", "|", ">", "'", '"', "{a}", "[a]", ",", "?", ":", "a.b", " a"),
    *("a ", "\t", "\n", "a\nb", "\r\n", "\\", "\x00", "\x07", "\x85", "\u2028", "\ufeff"),
    *("é", "北京", "\U0001f600"),
)

_finite = st.floats(allow_nan=False, allow_infinity=False)
_positive = st.floats(min_value=1e-300, max_value=1e300)
_fractions = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)


def awkward_words() -> st.SearchStrategy[str]:
    """Strings that YAML would read as something else if they stood there without quotes."""
    return st.sampled_from(AWKWARD)


def columns() -> st.SearchStrategy[str]:
    """Names of columns: any text but the empty one."""
    return st.one_of(
        st.text(string.ascii_lowercase + "_", min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        awkward_words(),
    )


def task_names() -> st.SearchStrategy[str]:
    """Names of tasks: identifiers that no module uses (none of torch's names ends in `_t`)."""
    return st.text(string.ascii_letters, min_size=1, max_size=6).map(lambda name: f"{name}_t")


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    """A whole spec whose parts fit together."""
    names = draw(st.lists(columns(), min_size=2, max_size=12, unique=True))
    cut = draw(st.integers(1, len(names) - 1))
    features = draw(_features(names[:cut]))
    tasks = draw(_tasks(names[cut:]))
    train = draw(_trains([f.name for f in features if f.type != "dense" and f.table is None]))
    valid = draw(
        st.one_of(
            st.none(),
            st.just("valid.parquet"),
            st.builds(SplitByKey, fraction=_fractions, by=columns()),
            st.builds(SplitByTime, last=_fractions, by=columns()),
        )
    )
    if valid is not None:
        metric = {"binary": "auc", "regression": "mae", "multiclass": "accuracy"}[tasks[0].kind]
        more = {"monitor": f"{tasks[0].name}/{metric}", "patience": draw(st.integers(1, 9))}
        train = TrainConfig(**{**dict(train), **more})
    data = DataSpec(
        train="train/*.parquet",
        valid=valid,
        group_by=draw(st.none() | columns()),
        segments=tuple(draw(st.lists(columns(), max_size=3, unique=True))),
        memory=draw(st.sampled_from(["1GiB", "512MiB", "1.5 GiB", "1TiB"])),
        accept_leaks=tuple(draw(st.lists(st.sampled_from(names[:cut]), max_size=2, unique=True))),
    )
    products = any(task.product_of for task in tasks)
    kind = draw(st.sampled_from(["tasks", "entire_space"])) if products else "tasks"
    return RunConfig(
        name=draw(columns()),
        data=data,
        features=features,
        tasks=tasks,
        tower=draw(_towers()),
        objective=ObjectiveConfig(kind=kind),
        train=train,
    )


def _sources() -> st.SearchStrategy[dict[str, Any]]:
    borders = st.lists(_finite, min_size=1, max_size=5, unique=True).map(sorted).map(tuple)
    return st.one_of(
        st.builds(lambda n: {"vocab": Vocab(min_count=n)}, st.integers(1, 9)),
        st.builds(lambda n: {"hash": n}, st.integers(1, 10**9)),
        st.builds(lambda b: {"buckets": b}, st.integers(2, 99) | borders),
    )


@st.composite
def _features(draw: st.DrawFn, names: list[str]) -> tuple[Any, ...]:
    features: list[Any] = []
    owners: list[str] = []
    dims = st.integers(1, 8).map(lambda n: 4 * n)
    nulls = st.sampled_from(["oov", "error"])
    for name in names:
        if draw(st.booleans()):
            fill = draw(st.none() | _finite)
            transform = draw(st.sampled_from(["none", "log1p", "signed_log1p"]))
            features.append(DenseFeature(name=name, type="dense", transform=transform, fill=fill))
            continue
        if owners and draw(st.booleans()):
            table: dict[str, Any] = {"table": draw(st.sampled_from(owners))}
        else:
            table = {**draw(_sources()), "dim": draw(dims)}
            owners.append(name)
        table |= {"name": name, "nulls": draw(nulls)}
        if draw(st.booleans()):
            pooling = draw(st.sampled_from(["sum", "mean"]))
            features.append(SparseFeature(type="sparse", pooling=pooling, **table))
        else:
            features.append(SequenceFeature(type="sequence", max_len=7, keep_last=False, **table))
    return tuple(features)


@st.composite
def _tasks(draw: st.DrawFn, labels: list[str]) -> tuple[Task, ...]:
    names = draw(st.lists(task_names(), min_size=1, max_size=4, unique=True))
    weights = st.floats(min_value=0, max_value=1e6)
    kinds = st.sampled_from(["binary", "regression", "multiclass"])
    of_classes: set[str] = set()
    tasks: list[Task] = []
    for name in names:
        label = draw(st.sampled_from(labels))
        factors = [task.name for task in tasks if task.product_of is None and task.kind == "binary"]
        if len(factors) >= 2 and draw(st.booleans()):
            tasks.append(Task(name=name, label=label, product_of=tuple(factors)))
            continue
        conditions = [c for c in labels if c != label and c not in of_classes]
        given = draw(st.none() | st.sampled_from(conditions or [None]))
        is_condition = label in {task.given for task in tasks}
        kind = draw(kinds.filter(lambda kind: kind != "multiclass") if is_condition else kinds)
        classes = draw(st.integers(2, 1000)) if kind == "multiclass" else None
        of_classes |= {label} if kind == "multiclass" else set()
        more = {"given": given, "weight": draw(weights), "classes": classes}
        tasks.append(Task(name=name, label=label, kind=kind, **more))
    return tuple(tasks)


def _towers() -> st.SearchStrategy[Any]:
    widths = st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(SharedBottomConfig),
        st.builds(MMoEConfig, num_experts=st.integers(1, 9), expert_widths=widths),
        st.builds(CGCConfig, head_widths=widths),
        st.builds(PLEConfig, num_levels=st.integers(1, 3)),
        st.builds(
            HoMEConfig,
            norm=st.sampled_from(["layer", "batch", "none"]),
            feature_gate_rank=st.none() | st.integers(1, 9),
            hierarchy=st.booleans(),
        ),
        st.builds(ESMMConfig, dropout=st.floats(min_value=0, max_value=0.9)),
    )


def _trains(tables: list[str]) -> st.SearchStrategy[TrainConfig]:
    shardings = st.sampled_from(["table_wise", "row_wise", "table_row_wise"])
    optimizers = st.sampled_from(["rowwise_adagrad", "adagrad", "sgd", "adam"])
    return st.builds(
        TrainConfig,
        batch_size=st.integers(1, 999).map(lambda n: 4 * n),
        streams=st.just(4),
        lr=_positive,
        clip=st.none() | _positive,
        optimizer=st.sampled_from(["adam", "adamw", "sgd", "adagrad"]),
        embedding=st.builds(EmbeddingConfig, optimizer=optimizers, lr=_positive, l2=_positive),
        seed=st.integers(0, 2**63 - 1),
        precision=st.sampled_from(["32-true", "bf16-mixed"]),
        sharding=st.dictionaries(st.sampled_from(tables), shardings) if tables else st.just({}),
        loggers=st.sampled_from([(), ("csv",), ("tensorboard", "csv")]),
        normalize=st.sampled_from(["rows", "observed"]),
    )
