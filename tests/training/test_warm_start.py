"""Warm start: a run that goes on from another one's model, on other rows."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recmtl import api
from recmtl.checkpoint import best, fingerprint, last, load_full, read_state
from recmtl.cli import main
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, open_splits
from recmtl.embeddings.initial import initial_rows
from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.report import write_report
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.training.warm_start import WarmStart
from tests.runs import copied, interrupt, leftovers, run_differences
from tests.training.tools import At

SPEC = """
name: days
data: {train: train.parquet, valid: valid.parquet}
features:
  - {name: user, type: sparse, vocab: {min_count: 2}, dim: 4}
  - {name: item, type: sparse, vocab: {}, dim: 8}
  - {name: city, type: sparse, hash: 20, dim: 4}
  - {name: seen, type: sequence, table: item, max_len: 3}
  - {name: price, type: dense}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
tower: {kind: mmoe, num_experts: 2, expert_widths: [8], head_widths: [4], dropout: 0.1}
train: {batch_size: 64, epochs: 2, lr: 0.01, seed: 3, embedding: {lr: 0.1}}
"""
STILL = ["train.lr=1e-30", "train.embedding.lr=1e-30", "train.epochs=1"]


def day(number: int, rows: int, seed: int) -> pl.DataFrame:
    """Users and items that come and go: each day has half of those of the day before."""
    rng = np.random.default_rng([number, seed])
    user, item = (rng.integers(k * number, k * number + 2 * k, rows) for k in (40, 15))
    click = rng.random(rows) < 1 / (1 + np.exp(-(1.5 * np.sin(user) + np.cos(item))))
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "city": rng.integers(0, 100, rows),
            "seen": [rng.integers(15 * number, 15 * number + 30, 4).tolist() for _ in range(rows)],
            "price": rng.normal(number, 1.0, rows),
            "click": click.astype(np.int8),
            "buy": (click & (rng.random(rows) < 0.4)).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three days."""
    folder = tmp_path_factory.mktemp("days")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    for number in range(3):
        (folder / f"{number}").mkdir()
        day(number, 500, 0).write_parquet(folder / f"{number}/train.parquet")
        day(number, 200, 1).write_parquet(folder / f"{number}/valid.parquet")
    return folder


@pytest.fixture(scope="module")
def first(days: Path) -> Path:
    """A finished run on the first day."""
    train(days, 0, days / "runs/first")
    return days / "runs/first"


@pytest.fixture(scope="module")
def second(days: Path, first: Path) -> Path:
    """One that went on from it on the second day, and that nothing disturbed."""
    train(days, 1, days / "runs/second", warm_start=first)
    return days / "runs/second"


def train(days: Path, number: int, out: Path, *overrides: str, **options: Any) -> None:
    api.train(days / "spec.yaml", data=days / f"{number}", out=out, overrides=overrides, **options)


def begun(
    days: Path, first: Path, folder: Path, *overrides: str, state: Any = "keep"
) -> tuple[dict[str, torch.Tensor], Mapping[str, Any], Encoders]:
    """The checkpoint that the second day begins with: its tensors and state, and the encoders."""
    config = load_spec(days / "spec.yaml", overrides)
    source = WarmStart.open(first, config, state)
    log = open_splits(config, days / "1").train
    encoders = Encoders.fit(config, train=log, before=source.run.encoders)
    source.write(folder, encoders, config)
    return load_full(last(folder)), read_state(last(folder)), encoders


def test_old_rows_stay_and_new_ones_begin_as_in_a_fresh_run(
    days: Path, first: Path, tmp_path: Path
) -> None:
    now, state, encoders = begun(days, first, tmp_path)
    before = load_full(best(first / "checkpoints"))
    old = Run(first).encoders.tables
    assert now.keys() == before.keys()
    assert encoders.tables["user"] > old["user"]
    assert encoders.tables["item"] > old["item"]
    for table, rows in encoders.tables.items():
        key = f"tables/{table}/weight"
        assert now[key].shape == (rows, before[key].shape[1])
        assert now[key][: old[table]].equal(before[key])
        drawn = torch.from_numpy(initial_rows(3, table, 0, now[key].shape[1]))
        torch.testing.assert_close(now[key][old[table] :], 0.01 * drawn[old[table] : rows])
        key = f"tables/{table}/optimizer/momentum1"
        assert now[key][: old[table]].equal(before[key])
        assert not now[key][old[table] :].any()
        assert before[key].any()
    for key in now:
        assert key.startswith("tables/") or now[key].equal(before[key])
    assert state["earlier_steps"] == read_state(best(first / "checkpoints"))["global_step"] > 0


def test_the_state_of_optimizers_is_left_out_where_it_is_reset(
    days: Path, first: Path, tmp_path: Path
) -> None:
    kept, _, _ = begun(days, first, tmp_path / "kept")
    now, state, _ = begun(days, first, tmp_path / "reset", state="reset")
    assert any("optimizer" in key for key in kept)
    assert now.keys() == {key for key in kept if "optimizer" not in key}
    assert all(now[key].equal(kept[key]) for key in now)
    assert not state["complete"]
    assert state["earlier_steps"] == 0


def test_another_optimizer_needs_a_state_of_its_own(
    days: Path, first: Path, tmp_path: Path
) -> None:
    others = ["train.optimizer=sgd", "train.embedding.optimizer=adagrad"]
    with pytest.raises(CheckpointError) as error:
        begun(days, first, tmp_path, *others)
    assert "train.optimizer: was `adam`, and is `sgd`" in str(error.value)
    assert "train.embedding.optimizer: was `rowwise_adagrad`" in str(error.value)
    assert "`--optimizer-state reset`" in str(error.value)
    assert not list(tmp_path.iterdir())
    train(
        days, 1, tmp_path / "run", *others, warm_start=first, optimizer_state="reset"
    )  # the new optimizer's own state begins at zero
    assert Run(tmp_path / "run").finished


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_a_run_that_learns_nothing_says_what_its_source_says(
    days: Path, first: Path, tmp_path: Path, state: Any
) -> None:
    """Of every row whose ids the source knew: statistics, borders and weights were taken over."""
    train(days, 1, tmp_path / "run", *STILL, warm_start=first, optimizer_state=state)
    rows, known = day(0, 300, 2), Run(first).encoders.encode(day(0, 300, 2), labels=False)
    is_known = (known.ids_FB > 0).all(dim=0) & torch.from_numpy(
        np.array([(known.sequences["seen"].values_N.view(-1, 3)[b] > 0).all() for b in range(300)])
    )
    assert int(is_known.sum()) > 100
    ours, theirs = (BatchScorer(run, keep=())(rows) for run in (tmp_path / "run", first))
    for column in theirs.columns:
        mine, own = (s[column].to_numpy()[is_known.numpy()] for s in (ours, theirs))
        np.testing.assert_allclose(mine, own, atol=1e-6)


def test_a_run_remembers_what_it_goes_on_from(first: Path, second: Path, tmp_path: Path) -> None:
    run = Run(second)
    assert run.warm_start == {
        "run": str(first),
        "model": fingerprint(best(first / "checkpoints")),
        "optimizer_state": "keep",
    }
    assert Run(first).warm_start is None
    run.verify()
    page = write_report(copied(second, tmp_path), analysis=False).read_text(encoding="utf-8")
    assert f"Goes on from the run {first} (model {run.warm_start['model'][:12]}), whose" in page
    assert leftovers(second) == []
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert "step-00000000" not in names


def test_days_follow_one_another(days: Path, first: Path, second: Path, tmp_path: Path) -> None:
    train(days, 2, tmp_path / "third", warm_start=second)
    tables = [Run(run).encoders.tables["item"] for run in (first, second, tmp_path / "third")]
    # Items 0-29, 15-44 and 30-59, and row 0.
    assert tables == [31, 46, 61]
    seen, wanted = (read_state(best(run / "checkpoints")) for run in (tmp_path / "third", second))
    assert seen["earlier_steps"] == wanted["global_step"] + wanted["earlier_steps"]


@pytest.mark.parametrize("step", [0, 3, 12])
def test_interrupted_and_continued_equals_uninterrupted(
    days: Path, first: Path, second: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    stop = At(lambda: os.kill(os.getpid(), signal.SIGINT), step=step)
    if step == 0:  # killed as soon as the run was there
        finished = copied(second, tmp_path)
        config = load_spec(days / "spec.yaml")
        source = WarmStart.open(first, config, "keep")
        Run.create(
            run,
            config,
            Encoders.load(finished / "encoders"),
            data_fingerprint=Run(second).data_fingerprint,
            warm_start=source.record,
            begin=lambda folder: source.write(folder, Run(second).encoders, config),
        )
    else:
        with pytest.raises(KeyboardInterrupt):
            train(days, 1, run, warm_start=first, progress=stop)
    assert not Run(run).finished
    train(days, 1, run, warm_start=first)
    assert run_differences(run, second) == {}


def test_an_interrupted_run_goes_on_from_what_it_was_started_with(
    days: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    run = copied(second, tmp_path)
    interrupt(run)
    with pytest.raises(CheckpointError, match=r"was started with `--warm-start .*first") as error:
        train(days, 1, run)
    assert "not without `--warm-start`" in str(error.value)
    with pytest.raises(CheckpointError, match=r"--optimizer-state keep` .*not with .* reset`"):
        train(days, 1, run, warm_start=first, optimizer_state="reset")
    moved = copied(first, tmp_path / "elsewhere")
    train(days, 1, run, warm_start=moved)
    assert run_differences(run, second) == {}


def test_an_interrupted_run_goes_on_where_its_source_was_removed(
    days: Path, first: Path, tmp_path: Path
) -> None:
    source, run = copied(first, tmp_path), tmp_path / "run"
    stop = At(lambda: os.kill(os.getpid(), signal.SIGINT), step=3)
    with pytest.raises(KeyboardInterrupt):
        train(days, 1, run, warm_start=source, progress=stop)
    shutil.rmtree(source)
    with pytest.raises(CheckpointError, match=r"is not a run folder"):
        train(days, 1, run, warm_start=source, optimizer_state="reset")
    with pytest.raises(CheckpointError, match=r"is not a run folder"):
        train(days, 1, run, warm_start=source, overwrite=True)
    with pytest.raises(CheckpointError, match=r"is not a run folder"):
        train(days, 1, tmp_path / "other", warm_start=source)
    with pytest.raises(CheckpointError, match=r"was started with another spec: `train.epochs`"):
        train(days, 1, run, "train.epochs=3", warm_start=source)
    train(days, 1, run, warm_start=source)
    train(days, 1, tmp_path / "whole", warm_start=first)
    assert run_differences(run, tmp_path / "whole") == {}


def test_what_cannot_be_carried_over_is_said_all_at_once(
    days: Path, first: Path, tmp_path: Path
) -> None:
    changes = [
        "features.user.dim=8",
        "features.item.vocab.min_count=5",
        "features.price.transform=signed_log1p",
        "tasks.ctr.weight=2",
        "tasks.cvr.label=click",
        "tasks.cvr.given=null",
        "tower.num_experts=3",
        "tower.dropout=0.5",
        "wide=linear",
        "train.epochs=1",
        "data.sampled={keep: {click: 1.0, else: 0.5}}",
    ]
    with pytest.raises(CheckpointError) as error:
        train(days, 1, tmp_path / "run", *changes, warm_start=first)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{first}: cannot be gone on from with this spec:"
    assert lines[1:-1] == [
        "- feature `price`: was trained with transform: none, not signed_log1p.",
        "- feature `user`: was trained with dim: 4, not 8.",
        "- task `cvr`: was trained with label: buy, not click; given: click, not nothing.",
        "- data.sampled: was trained with nothing, not {'click': 1.0, 'else': 0.5}; heads learned"
        " rows that were thinned so.",
        "- tower: was trained with num_experts: 2, not 3.",
        "- wide: was trained with kind: none, not linear.",
    ]
    assert not (tmp_path / "run").exists()


def test_features_and_tasks_that_come_or_go(days: Path, first: Path, tmp_path: Path) -> None:
    config = load_spec(days / "spec.yaml")
    new = config.tasks[0].model_copy(update={"name": "liked"})
    changed = config.model_copy(
        update={"features": config.features[1:][::-1], "tasks": (*config.tasks, new)}
    )
    with pytest.raises(CheckpointError) as error:
        WarmStart.open(first, changed, "keep")
    assert "- feature `user`: is gone.\n- task `liked`: is new.\n" in str(error.value)
    turned = config.model_copy(update={"features": config.features[::-1]})
    with pytest.raises(CheckpointError, match="features: were trained in another order: `user`, "):
        WarmStart.open(first, turned, "keep")


def test_a_source_that_cannot_be_trusted_is_refused(
    days: Path, first: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match="is not a run folder"):
        train(days, 1, out, warm_start=days)
    unfinished = copied(first, tmp_path)
    interrupt(unfinished)
    with pytest.raises(CheckpointError, match="this run is not finished"):
        train(days, 1, out, warm_start=unfinished)
    damaged = copied(first, tmp_path / "damaged")
    file = max(damaged.rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="its sha256 is not the recorded one"):
        train(days, 1, out, warm_start=damaged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "damaged"]


def test_what_cannot_be_meant_is_refused(days: Path, first: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a run cannot go on from itself"):
        train(days, 1, first, warm_start=first, overwrite=True)
    with pytest.raises(SpecError, match="without `warm_start`"):
        train(days, 1, tmp_path / "run", optimizer_state="keep")
    with pytest.raises(SpecError, match="must be `keep` or `reset`, got 'some'"):
        train(days, 1, tmp_path / "run", warm_start=first, optimizer_state="some")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--optimizer-state", "reset"], 2, "without `warm_start`"),
        (["--warm-start", "FIRST", "--optimizer-state", "some"], 2, "'some' is not one of"),
        (["--warm-start", "nowhere"], 5, "is not a run folder"),
        (["--warm-start", "FIRST", "tower.num_experts=3"], 5, "num_experts: 2, not 3"),
    ],
)
def test_exit_codes_of_the_command(
    days: Path,
    first: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    command = ["train", f"{days / 'spec.yaml'}", "--data", f"{days / '1'}"]
    given = [f"{first}" if option == "FIRST" else option for option in options]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", f"{tmp_path / 'run'}", *given])
    assert ended.value.code == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_columns_of_other_types_are_refused(days: Path, first: Path, tmp_path: Path) -> None:
    for name in ("train", "valid"):
        frame = day(1, 100, 0).with_columns(pl.col("user").cast(pl.String))
        frame.write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"`user` is String, but it was fitted on integers"):
        api.train(days / "spec.yaml", data=tmp_path, out=tmp_path / "run", warm_start=first)
    assert not (tmp_path / "run").exists()


def test_ids_of_csv_are_read_as_they_were(tmp_path: Path) -> None:
    """Strings on the first day; on the second one all of them look like integers."""
    spec = tmp_path / "spec.yaml"
    text = SPEC.replace("train.parquet", "train.csv").replace(", valid: valid.parquet", "")
    lines = [line for line in text.splitlines() if "seen" not in line]
    spec.write_text("\n".join(lines), encoding="utf-8")
    for number, letter in enumerate(("u", "")):
        frame = day(number, 200, 0).drop("seen")
        frame = frame.with_columns(user=pl.format("{}{}", pl.lit(letter), pl.col("user")))
        (tmp_path / f"{number}").mkdir()
        frame.write_csv(tmp_path / f"{number}/train.csv")
    api.train(spec, data=tmp_path / "0", out=tmp_path / "a", overrides=["train.epochs=1"])
    api.train(
        spec,
        data=tmp_path / "1",
        out=tmp_path / "b",
        overrides=["train.epochs=1"],
        warm_start=tmp_path / "a",
    )
    ids = Run(tmp_path / "b").encoders._fitted.mappers["user"].vocab.ids  # type: ignore[attr-defined]
    assert ids.dtype == pl.String
    assert {text[0] for text in ids if not text.isdigit()} == {"u"}
    assert any(text.isdigit() for text in ids)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_go_on_as_one_does(
    days: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    quiet = ["tower.dropout=0"]
    train(days, 1, tmp_path / "two", "train.devices=2", *quiet, warm_start=first)
    train(days, 1, tmp_path / "one", *quiet, warm_start=first)
    ours, theirs = (load_full(best(tmp_path / n / "checkpoints")) for n in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_config_of_a_warm_run_is_that_of_the_spec(days: Path, second: Path) -> None:
    config: RunConfig = Run(second).config
    assert config == load_spec(days / "spec.yaml")
