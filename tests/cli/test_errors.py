"""Wrong specs, data, runs and arguments: one clear error, the right code, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl.cli import main
from tests.runs import interrupt

SPEC = """name: shop
data: {train: train.parquet, valid: valid.parquet, group_by: user_id, keep: [user_id]}
features:
  - {name: user_id, type: sparse, vocab: {}, dim: 4}
  - {name: item_id, type: sparse, hash: 50, dim: 4}
  - {name: tags, type: sparse, hash: 20, dim: 4, weights: tag_weights}
  - {name: history, type: sequence, table: item_id, max_len: 3}
  - {name: price, type: dense, transform: log1p}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
tower: {kind: shared_bottom, expert_widths: [8], head_widths: []}
train: {batch_size: 64, monitor: ctr/auc}
"""


def log(rows: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    click = rng.random(rows) < 0.4
    items = [rng.integers(0, 30, 2).tolist() for _ in range(rows)]
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 20, rows),
            "item_id": rng.integers(0, 30, rows),
            "tags": items,
            "tag_weights": [[0.5, 1.5]] * rows,
            "history": items,
            "price": rng.exponential(size=rows),
            "click": click.astype(np.int8),
            "buy": (click & (rng.random(rows) < 0.4)).astype(np.int8),
        }
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a spec and data that are right."""
    log().write_parquet(tmp_path / "train.parquet")
    log().head(200).write_parquet(tmp_path / "valid.parquet")
    (tmp_path / "shop.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path


@pytest.fixture
def recmtl(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`recmtl(args...)` -> exit code, stdout, stderr."""

    def called(*args: object) -> tuple[int, str, str]:
        try:
            main([str(arg) for arg in args])
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return called


WRONG_SPECS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": (
        "hash: 50, dim",
        "hash: 50, dims",
        ("shop.yaml:5", "`item_id`", "`dims`", "`dim`"),
    ),
    "unknown section": ("tower: {", "towers: {", ("shop.yaml:13", "`towers`", "`tower`")),
    "duplicate key": ("name: shop\n", "name: shop\nname: shop\n", ("shop.yaml:2", "name")),
    "bare no": ("name: shop", "name: no", ("shop.yaml:1", "no")),
    "octal": ("hash: 50", "hash: 050", ("shop.yaml:5", "050")),
    "not YAML": ("features:", "features: [", ("shop.yaml",)),
    "unknown tower": ("shared_bottom", "mmoes", ("shop.yaml:13", "mmoes", "mmoe")),
    "unknown type": ("type: dense", "type: dence", ("shop.yaml:8", "dence", "dense")),
    "dim of 6": ("vocab: {}, dim: 4", "vocab: {}, dim: 6", ("shop.yaml:4", "dim", "4")),
    "string for a number": (
        "batch_size: 64",
        "batch_size: many",
        ("shop.yaml:14", "batch_size", "many"),
    ),
    "no source of rows": ("hash: 50, dim", "dim", ("`item_id`", "vocab", "hash")),
    "two sources of rows": ("hash: 50", "hash: 50, vocab: {}", ("`item_id`", "vocab", "hash")),
    "unknown table": ("table: item_id", "table: item", ("`history`", "item_id")),
    "duplicate feature": (
        "{name: price, type: dense",
        "{name: user_id, type: dense",
        ("`user_id`",),
    ),
    "label as a feature": ("name: price", "name: click", ("`click`", "label")),
    "duplicate task": ("{name: cvr,", "{name: ctr,", ("`ctr`",)),
    "unknown factor": ("[ctr, cvr]", "[ctr, cvrr]", ("`ctcvr`", "cvrr", "`cvr`")),
    "unknown monitor": ("ctr/auc", "ctr/aucc", ("monitor", "auc")),
    "uneven streams": ("batch_size: 64", "batch_size: 60", ("batch_size", "8")),
    "fp16 scaling": (
        "batch_size: 64",
        "batch_size: 64, precision: 16-mixed",
        ("precision", "16-mixed"),
    ),
    "untrained task": (
        "{name: ctcvr, label: buy, product_of: [ctr, cvr]}",
        "{name: ctcvr, label: buy, product_of: [ctr, cvr], weight: -1}",
        ("`ctcvr`", "weight"),
    ),
    "reserved key": ("name: shop\n", "name: shop\nbalance: {kind: pcgrad}\n", ("balance",)),
    "Adam on tables of a CPU": (
        "batch_size: 64",
        "batch_size: 64, embedding: {optimizer: adam}",
        ("adam", "CUDA"),
    ),
}


@pytest.mark.parametrize("kind", WRONG_SPECS)
def test_a_wrong_spec_ends_with_2(
    kind: str, shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    right, wrong, fragments = WRONG_SPECS[kind]
    assert right in SPEC
    (shop / "shop.yaml").write_text(SPEC.replace(right, wrong, 1), encoding="utf-8")
    code, out, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", "--json")
    assert (code, out) == (2, ""), err
    assert all(fragment in err for fragment in fragments), err
    assert "Traceback" not in err
    assert not (shop / "run").exists()


def test_all_errors_of_a_spec_come_at_once(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    wrong = SPEC.replace("hash: 50, dim", "hash: 50, dims").replace("batch_size", "batchsize")
    (shop / "shop.yaml").write_text(wrong, encoding="utf-8")
    _, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run")
    assert "shop.yaml:5" in err
    assert "shop.yaml:14" in err


WRONG_DATA: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], tuple[str, ...]]] = {
    "missing column": (lambda f: f.drop("price"), ("train.parquet", "`price`")),
    "renamed column": (lambda f: f.rename({"price": "prices"}), ("`price`", "`prices`")),
    "text for a number": (lambda f: f.with_columns(price=pl.lit("x")), ("`price`", "String")),
    "single for a list": (lambda f: f.with_columns(history=pl.lit(1)), ("`history`",)),
    "float as an id": (lambda f: f.with_columns(item_id=pl.lit(0.5)), ("`item_id`", "Float64")),
    "label of 2": (lambda f: f.with_columns(click=pl.lit(2)), ("`click`", "2")),
    "NaN label": (lambda f: f.with_columns(click=pl.lit(float("nan"))), ("`click`", "NaN")),
    "no label at all": (lambda f: f.with_columns(click=pl.lit(None, pl.Int8)), ("`ctr`",)),
    "conversion without a click": (lambda f: f.with_columns(buy=pl.lit(1)), ("`buy`", "`click`")),
    "negative price under log1p": (lambda f: f.with_columns(price=pl.lit(-2.0)), ("`price`",)),
    "uneven weights": (lambda f: f.with_columns(tag_weights=pl.lit([1.0])), ("`tag_weights`",)),
    "leaked label": (
        lambda f: f.with_columns(price=pl.col("click").cast(pl.Float64)),
        ("`price`", "`ctr`", "accept_leaks"),
    ),
    "empty": (lambda f: f.head(0), ("train.parquet",)),
}


@pytest.mark.parametrize("kind", WRONG_DATA)
def test_wrong_data_ends_with_3(
    kind: str, shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    change, fragments = WRONG_DATA[kind]
    change(log()).write_parquet(shop / "train.parquet")
    code, out, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", "--json")
    assert (code, out) == (3, ""), err
    assert all(fragment in err for fragment in fragments), err
    assert "Traceback" not in err
    assert not (shop / "run").exists()
    assert recmtl("doctor", shop / "shop.yaml")[0] == 3


@pytest.mark.parametrize(
    ("kind", "break_file"),
    [
        ("absent", lambda file: file.unlink()),
        ("truncated", lambda file: file.write_bytes(file.read_bytes()[:-100])),
        ("not Parquet", lambda file: file.write_text("user_id,click\n1,0\n")),
    ],
)
def test_a_broken_file_ends_with_3(
    kind: str,
    break_file: Callable[[Path], Any],
    shop: Path,
    recmtl: Callable[..., tuple[int, str, str]],
) -> None:
    break_file(shop / "train.parquet")
    code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run")
    assert code == 3, err
    assert "train.parquet" in err
    assert not (shop / "run").exists()


def test_drift_between_files_ends_with_3(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    (shop / "train.parquet").unlink()
    (shop / "parts").mkdir()
    log().write_parquet(shop / "parts/a.parquet")
    log().with_columns(pl.col("item_id").cast(pl.String)).write_parquet(shop / "parts/b.parquet")
    code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", "data.train=parts")
    assert code == 3
    assert "b.parquet" in err
    assert "`item_id`" in err


def test_wrong_validation_labels_end_with_3_before_training(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    log().with_columns(click=pl.lit(3)).write_parquet(shop / "valid.parquet")
    code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run")
    assert code == 3
    assert "valid.parquet" in err
    assert not (shop / "run").exists()


def test_a_network_that_the_features_cannot_feed_ends_with_2_before_training(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    without = [line for line in SPEC.splitlines() if "history" not in line]
    (shop / "shop.yaml").write_text("\n".join(without), encoding="utf-8")
    code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", "tower=dtrn")
    assert code == 2, err
    assert "sequence" in err
    assert not (shop / "run").exists()


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (("trian",), "Did you mean `train`"),
        (("train", "absent.yaml", "--out", "run"), "absent.yaml"),
        (("train", "shop.yaml"), "--out"),
        (("score", "run", "--data", "x"), "--out"),
        (("train", "shop.yaml", "--out", "run", "--epochs", "3"), "--epochs"),
    ],
)
def test_wrong_arguments_end_with_2(
    args: tuple[str, ...],
    fragment: str,
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    recmtl: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(shop)
    code, out, err = recmtl(*args)
    assert (code, out) == (2, ""), err
    assert fragment in err


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("tower=mmo", "mmoe"),
        ("tower.expert_width=[4]", "tower"),
        ("train.lrr=1", "`lr`"),
        ("train.lr", "key.sub=value"),
        ("train.epochs=-1", "epochs"),
    ],
)
def test_a_wrong_override_ends_with_2(
    override: str, fragment: str, shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", override)
    assert code == 2, err
    assert fragment in err
    assert not (shop / "run").exists()


def test_a_logger_that_is_not_installed_ends_with_4(
    shop: Path, monkeypatch: pytest.MonkeyPatch, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = recmtl(
        "train", shop / "shop.yaml", "--out", shop / "run", "train.loggers=[tensorboard]"
    )
    assert code == 4
    assert "pip install tensorboard" in err
    assert not (shop / "run").exists()


def test_an_out_that_is_something_else_is_left_alone(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    (shop / "run").mkdir()
    (shop / "run/precious.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        code, _, err = recmtl("train", shop / "shop.yaml", "--out", shop / "run", *more)
        assert code == 2
        assert "not a run" in err
    assert [file.name for file in (shop / "run").iterdir()] == ["precious.txt"]


def test_runs_that_are_finished_foreign_or_damaged(
    shop: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    spec, run = shop / "shop.yaml", shop / "run"
    assert recmtl("train", spec, "--out", run)[0] == 0
    code, _, err = recmtl("train", spec, "--out", run)
    assert code == 2
    assert "--overwrite" in err

    interrupt(run)
    code, _, err = recmtl("train", spec, "--out", run, "train.lr=0.5")
    assert code == 5
    assert "another spec" in err

    log(500).write_parquet(shop / "train.parquet")
    code, _, err = recmtl("train", spec, "--out", run)
    assert code == 5
    assert "other data" in err

    tables = next((run / "checkpoints").rglob("*.safetensors"))
    content = bytearray(tables.read_bytes())
    content[-1] ^= 1
    tables.write_bytes(content)
    code, _, err = recmtl("score", run, "--data", shop / "valid.parquet", "--out", shop / "scores")
    assert code == 5
    assert tables.name in err

    (run / "run.json").write_text("{")
    assert recmtl("eval", run, "--data", shop / "valid.parquet")[0] == 5
    assert recmtl("report", shop)[0] == 5


def test_scoring_of_data_that_does_not_fit(
    shop: Path, run: Path, funnel: Path, recmtl: Callable[..., tuple[int, str, str]]
) -> None:
    log().write_parquet(shop / "other.parquet")
    code, _, err = recmtl("score", run, "--data", shop / "other.parquet", "--out", shop / "scores")
    assert code == 3
    assert "`category`" in err
    code, _, err = recmtl(
        "score",
        run,
        "--data",
        funnel / "test.parquet",
        "--out",
        shop / "scores",
        "--keep",
        "nothing",
    )
    assert code == 3
    assert "`nothing`" in err
    assert not (shop / "scores").exists()
    code, _, err = recmtl("score", run, "--data", funnel / "test.parquet", "--out", shop)
    assert code == 2
    assert "something else" in err
    texts = pl.read_parquet(funnel / "test.parquet").with_columns(pl.col("item_id").cast(pl.String))
    texts.write_parquet(shop / "texts.parquet")
    code, _, err = recmtl("score", run, "--data", shop / "texts.parquet", "--out", shop / "scores")
    assert code == 3
    assert "`item_id`" in err
