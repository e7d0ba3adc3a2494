"""A first spec guessed from a log trains as it is, and says what it left out."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl.config import RunConfig
from recmtl.doctor import examine, exit_code, guess_spec
from recmtl.errors import DataError
from recmtl.spec.yaml_loader import parse_yaml

ROWS = 3_000


def log(**more: object) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    click = (rng.random(ROWS) < 0.3).astype(np.int8)
    bought = click * (rng.random(ROWS) < 0.2).astype(np.int8)
    item = rng.integers(10_000, 10_200, ROWS)
    columns: dict[str, object] = {
        "request": [f"r{n:06}" for n in range(ROWS)],
        "ts": np.arange(ROWS) + 1_700_000_000,
        "user_id": rng.integers(1, 400, ROWS),
        "itemId": item,
        "last_items": [item[max(0, n - 3) : n].tolist() for n in range(ROWS)],
        "tags": [["a", "b"][: n % 3] for n in range(ROWS)],
        "os": rng.choice(["ios", "android", "no"], ROWS),
        "price": rng.exponential(5.0, ROWS) ** 3,
        "balance": rng.normal(0, 1, ROWS) ** 5 * 100,
        "score": [None if n % 4 == 0 else float(n % 97) for n in range(ROWS)],
        "country": ["nl"] * ROWS,
        "seen_at": [dt.datetime(2026, 1, 1) + dt.timedelta(seconds=n) for n in range(ROWS)],
        "geo": [{"lat": 1.0}] * ROWS,
        "clicked": click,
        "is_purchase": bought,
        "is_like": rng.integers(0, 2, ROWS),
        "stay_ms": click * rng.integers(100, 9_000, ROWS),
        "sample_weight": rng.random(ROWS),
    }
    return pl.DataFrame(columns | more)


def written(folder: Path, frame: pl.DataFrame) -> Path:
    path = folder / "logs" / "train.parquet"
    path.parent.mkdir(parents=True)
    frame.write_parquet(path)
    return path


def guessed(folder: Path, frame: pl.DataFrame, *labels: str) -> tuple[str, RunConfig]:
    text = guess_spec(written(folder, frame), labels=labels)
    return text, parse_yaml(RunConfig, text)


def test_the_whole_guess(tmp_path: Path) -> None:
    text, config = guessed(tmp_path, log())
    assert config.name == "logs"
    assert config.data.model_dump()["valid"] == {"last": 0.1, "by": "ts"}
    assert (config.data.weight, config.data.group_by) == ("sample_weight", "user_id")
    features = {feature.name: feature for feature in config.features}
    assert list(features) == [
        *("user_id", "itemId", "last_items", "tags", "os", "price", "balance", "score")
    ]
    kinds = [(f.type, getattr(f, "transform", None)) for f in config.features]
    assert kinds[-3:] == [("dense", "log1p"), ("dense", "signed_log1p"), ("dense", "none")]
    assert features["last_items"].model_dump(exclude_defaults=True) == {
        "name": "last_items",
        "type": "sequence",
        "table": "itemId",
        "max_len": 50,
    }
    assert [task.model_dump(exclude_defaults=True) for task in config.tasks] == [
        {"name": "ctr", "label": "clicked"},
        {"name": "cvr", "label": "is_purchase", "given": "clicked"},
        {"name": "ctcvr", "label": "is_purchase", "product_of": ("ctr", "cvr")},
        {"name": "is_like", "label": "is_like"},
    ]
    left_out = text.partition("# Left out:\n")[2]
    for name, reason in (
        ("request", "another value in almost every row"),
        ("country", "one value alone"),
        ("geo", "nested"),
        ("stay_ms", "it alone reaches AUC 1.0000 for task `ctr`"),
        ("seen_at", "a time is no feature by itself"),
    ):
        assert f"#   {name}: " in left_out
        assert reason in left_out


def test_the_guess_is_healthy_and_relative_to_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, log())
    spec = tmp_path / "specs" / "a.yaml"
    spec.parent.mkdir()
    spec.write_text(guess_spec(path, folder=spec.parent))
    assert "train: ../logs/train.parquet" in spec.read_text()
    findings = examine(spec)
    assert exit_code(findings) == 0, [str(finding) for finding in findings]


def test_a_conversion_without_a_click_has_a_task_of_its_own(tmp_path: Path) -> None:
    frame = log(is_purchase=np.arange(ROWS) % 2)
    _, config = guessed(tmp_path, frame)
    assert [(task.name, task.given) for task in config.tasks] == [
        ("ctr", None),
        ("is_purchase", None),
        ("is_like", None),
    ]


def test_labels_can_be_named(tmp_path: Path) -> None:
    frame = log(stars=np.arange(ROWS) % 5)
    _, config = guessed(tmp_path, frame, "is_like", "price", "stars")
    assert [(task.name, task.kind, task.classes) for task in config.tasks] == [
        ("is_like", "binary", None),
        ("price", "regression", None),
        ("stars", "multiclass", 5),
    ]
    assert {"is_like", "price", "stars"}.isdisjoint(feature.name for feature in config.features)


def test_lists_of_floats_of_one_length_are_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(ROWS, 8)).astype(np.float32)
    nulls = pl.Series(rng.random(ROWS) < 0.25)
    others = {
        "fixed": vectors,
        "look": pl.Series(vectors.tolist()).set(nulls, None),
        "short": vectors[:, :7],
        "ragged": [row[: 7 + n % 2] for n, row in enumerate(vectors.tolist())],
        "tag_weights": vectors,
        "broken": [[float("nan"), *row[1:]] for row in vectors.tolist()],
    }
    text, config = guessed(tmp_path, log(**others))
    features = {f.name: f.model_dump(exclude_defaults=True) for f in config.features}
    for name in ("fixed", "look"):
        assert features[name] == {"name": name, "type": "vector", "dim": 8}
    share = f"{nulls.mean():.1%}"
    assert [line.partition("# ")[2] for line in text.splitlines() if "name: look" in line] == [
        f"{share} null"
    ]
    for name in ("short", "ragged", "tag_weights", "broken"):
        assert f"#   {name}: " in text.partition("# Left out:")[2]
        assert name not in features
    spec = tmp_path / "logs" / "spec.yaml"
    spec.write_text(guess_spec(tmp_path / "logs" / "train.parquet", folder=spec.parent))
    findings = examine(spec)
    assert exit_code(findings) == 0, [str(finding) for finding in findings]


def test_without_time_the_user_decides_what_validates(tmp_path: Path) -> None:
    _, config = guessed(tmp_path, log().drop("ts", "seen_at"))
    assert config.data.model_dump()["valid"] == {"fraction": 0.1, "by": "user_id"}


def test_a_table_whose_owner_leaks_is_not_shared(tmp_path: Path) -> None:
    frame = log()
    clicked = frame["clicked"].to_numpy()
    item = frame["itemId"].to_numpy() + 1_000 * clicked.astype(np.int64)
    history = [[int(value)] for value in np.roll(item, 1)]
    text, config = guessed(tmp_path, frame.with_columns(itemId=item, last_items=pl.Series(history)))
    assert "#   itemId: it alone reaches AUC 1.0000" in text
    names = [feature.name for feature in config.features]
    assert "itemId" not in names
    assert "last_items" in names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            (),
            r"no column of 0 and 1 has the name of an outcome.* of 0 and 1: `flag`.*--label",
        ),
        (("flog",), r"there is no column `flog` to be a label\. Did you mean `flag`\?"),
        (("name",), r"column `name` is String: a label is a number"),
    ],
)
def test_no_outcome_is_an_error(labels: tuple[str, ...], message: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"flag": [0, 1] * 10, "name": ["a", "b"] * 10, "x": [0.5, 1.5] * 10})
    with pytest.raises(DataError, match=message):
        guess_spec(written(tmp_path, frame), labels=labels)


def test_nothing_to_predict_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column is left to predict from"):
        guess_spec(written(tmp_path, pl.DataFrame({"click": [0, 1] * 10})))


def test_names_that_break_lines_stay_on_theirs(tmp_path: Path) -> None:
    frame = log(**{"a\nepochs: [1, 2": [7] * ROWS, "b\n# x": np.arange(ROWS) % 3})
    text, config = guessed(tmp_path, frame)
    assert "#   a\\nepochs: [1, 2: one value alone" in text
    assert "b\n# x" in {feature.name for feature in config.features}


def test_columns_that_would_be_refused_are_left_out(tmp_path: Path) -> None:
    far = pl.Series("far", [2**63 + n % 9 for n in range(ROWS)], pl.UInt64)
    frame = log(**{"": np.arange(ROWS)}).with_columns(far)
    text, config = guessed(tmp_path, frame)
    assert "#   : a column without a name" in text
    assert "#   far: integers of 2^63 and more" in text
    assert {"", "far"}.isdisjoint(feature.name for feature in config.features)


def test_outcomes_that_are_not_asked_for_are_no_features(tmp_path: Path) -> None:
    text, config = guessed(tmp_path, log(), "clicked")
    assert [task.name for task in config.tasks] == ["ctr"]
    assert "#   is_purchase: looks like an outcome" in text
    assert "is_purchase" not in {feature.name for feature in config.features}
