"""`recmtl tune` from end to end, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recmtl
from recmtl import evaluate, load_spec
from recmtl.errors import CheckpointError, DataError, MissingExtraError, RecMTLError, SpecError
from tests.studies.test_compare import processes_of
from tests.studies.worlds import write_world

HOME = Path(recmtl.__file__).parents[1]
SEARCH = """
tower: {choices: [mmoe, dtrn]}      # DTRN reads sequences, and the spec has none
wide: {choices: [none, fm]}
"""
Recmtl = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    (folder / "search.yaml").write_text(SEARCH, encoding="utf-8")
    return folder


def tuned(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    given = {"search": world / "search.yaml", "jobs": 1, "trials": 4, **changes}
    return recmtl.tune(world / "spec.yaml", out=out, **given)


@pytest.fixture(scope="module")
def summary(world: Path) -> dict[str, Any]:
    """All four combinations: two at first, then all, of which two cannot be trained."""
    two = tuned(world, world / "out", trials=2)
    assert len(two["trials"]) == 2
    return tuned(world, world / "out")


@pytest.fixture(scope="module")
def by_default(world: Path) -> Path:
    """A search over what is searched by default, as the command line starts it."""
    out = world / "by_default"
    command = [sys.executable, "-m", "recmtl", "tune", str(world / "spec.yaml"), "--trials", "2"]
    command += ["--jobs", "1", "--keep", "--out", str(out), "--json", "train.lr=0.02"]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=world
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "tune.json").read_text())
    assert "not searched: `train.lr`, as `train.lr=0.02` settles it." in done.stderr
    assert "tune: 4,096 of 4,096 rows (100 %)" in done.stderr
    assert "trials 2 of 2, best 0." in done.stderr
    return out


def told(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials without what depends on time."""
    return [{**trial, "seconds": None} for trial in summary["trials"]]


@pytest.mark.slow
def test_values_are_those_of_the_runs(world: Path, summary: dict[str, Any]) -> None:
    trials = {(t["params"]["tower"], t["params"]["wide"]): t for t in summary["trials"]}
    assert summary["trials"][0]["params"] == {"tower": "mmoe", "wide": "none"}
    assert set(trials) == {(t, w) for t in ("mmoe", "dtrn") for w in ("none", "fm")}
    values = [trials["mmoe", wide]["value"] for wide in ("none", "fm")]
    best = summary["trials"][summary["best"]]
    assert best["value"] == max(values)
    assert summary["values"]["gain"] == max(values) - values[0]
    found = evaluate(summary["run"], world / "valid.parquet")["tasks"]["ctr"]["auc"]
    assert best["value"] == pytest.approx(found, abs=1e-4)
    spec, tried = (load_spec(f) for f in (world / "spec.yaml", Path(summary["run"], "config.yaml")))
    assert tried.wide.kind == best["params"]["wide"]
    assert tried.tower == spec.tower  # a word for the spec's own kind keeps its sizes
    assert tried.train == spec.train


@pytest.mark.slow
def test_trials_that_cannot_be_trained_are_failed_ones(
    world: Path, summary: dict[str, Any], recmtl_cli: Recmtl
) -> None:
    failed = [t for t in summary["trials"] if t["params"]["tower"] == "dtrn"]
    assert [f["number"] for f in summary["failed"]] == [t["number"] for t in failed]
    for trial in failed:
        assert trial["value"] is None
        assert trial["exit_code"] == 2
        assert "needs a behaviour sequence" in trial["message"]
    options = ["--search", world / "search.yaml", "--trials", 9, "--out", world / "out"]
    before = (world / "out/trials.jsonl").read_bytes()
    code, out, err = recmtl_cli("tune", world / "spec.yaml", *options)
    assert code == 0
    assert err.count("failed: SpecError: ") == 2
    assert "4 trials are all that the search has" in err
    assert out.startswith("ctr/auc on 256 validation rows: .")
    assert "recmtl eval" in out or "none of the others was better" in out
    assert (world / "out/trials.jsonl").read_bytes() == before


@pytest.mark.slow
def test_only_the_best_keeps_its_checkpoints(world: Path, summary: dict[str, Any]) -> None:
    runs = {int(run.name): run for run in (world / "out/trials").iterdir()}
    done = [trial["number"] for trial in summary["trials"] if trial["value"] is not None]
    assert sorted(runs) == done
    assert [n for n in done if (runs[n] / "checkpoints").exists()] == [summary["best"]]
    for number in set(done) - {summary["best"]}:
        names = {file.name for file in runs[number].iterdir()}
        assert names == {"config.yaml", "metrics.jsonl", "plan.txt", "validation.json"} | {
            "versions.json"
        }
        with pytest.raises(CheckpointError, match="is not a run folder"):
            evaluate(runs[number], world / "valid.parquet")


@pytest.mark.slow
def test_the_best_spec_is_trained_from_anywhere(
    world: Path, summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world / "out/spec.yaml"
    assert spec.read_text().startswith(f"# Trial {summary['best']} of 4 of `recmtl tune`: ctr/auc ")
    monkeypatch.chdir(tmp_path)
    found = recmtl.train(spec, out="run").best["valid/ctr/auc"]
    assert found == pytest.approx(summary["values"]["best"], abs=1e-4)


@pytest.mark.slow
def test_what_is_written_is_what_is_returned(world: Path, summary: dict[str, Any]) -> None:
    assert json.loads((world / "out/tune.json").read_text())["trials"] == summary["trials"]
    markdown = (world / "out/tune.md").read_text()
    assert "as the spec stands" in markdown
    assert markdown.count("| failed |") == 2
    page = (world / "out/tune.html").read_text()
    assert page.count("<svg") == 3
    for absent in ("<script", "<a ", "src=", "http"):
        assert absent not in page


@pytest.mark.slow
def test_other_searches_specs_and_data_are_refused(
    world: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    out = world / "out"
    before = {file: file.read_bytes() for file in out.glob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match=r"another search: `wide` differ\. .*search\.yaml"):
        tuned(world, out, search={"tower": {"choices": ["mmoe", "dtrn"]}})
    with pytest.raises(CheckpointError, match=r"another search: `--seed` differ\. .*\(0\)"):
        tuned(world, out, seed=1)
    for key in ("train.lr", "train.seed"):
        with pytest.raises(CheckpointError, match=rf"another spec: `{key}` differ"):
            tuned(world, out, overrides=[f"{key}=1"])
    with pytest.raises(CheckpointError, match=r"another spec: `wide\.kind` differ"):
        tuned(world, out, overrides=["wide=fm"])
    other = tmp_path / "other"
    write_world(other, rows=512)
    with pytest.raises(CheckpointError, match="was started on other data"):
        tuned(world, out, data=other)
    with pytest.raises(SpecError, match="exists and is no comparison"):
        recmtl.compare(world / "spec.yaml", out=out)
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.slow
def test_a_call_that_is_killed_goes_on_with_the_same_trials(
    world: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "recmtl", "tune", str(world / "spec.yaml"), "--jobs", "1"]
    # While the second trial that can be trained is under way.
    second = next(t["number"] for t in summary["trials"][1:] if t["value"] is not None)
    command += ["--search", str(world / "search.yaml"), "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HOME)},
        start_new_session=True,
    )
    metrics = out / f"trials/{second:03d}/metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was to be ended"
    process.kill()
    process.wait(60)
    while processes_of(out) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_of(out) == []
    lines = (out / "trials.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["trial"] == second
    assert "params" in json.loads(lines[-1])
    assert not (out / "tune.json").exists()
    resumed = tuned(world, out, trials=second + 1)
    assert told(resumed) == told(summary)[: second + 1]
    names = [json.loads(line)["trial"] for line in (out / "trials.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted([*range(second + 1)] * 2)  # each began once and ended once


@pytest.mark.slow
def test_the_default_search_holds_what_the_command_line_sets(world: Path, by_default: Path) -> None:
    found = json.loads((by_default / "tune.json").read_text())
    assert found["held"] == {"train.lr": "train.lr=0.02"}
    assert "train.lr" not in found["search"]
    assert {"train.embedding.lr", "train.embedding.prior", "tower.dropout", "wide"} <= set(
        found["search"]
    )
    for number in (0, 1):  # --keep
        config = load_spec(by_default / f"trials/{number:03d}/config.yaml")
        params = found["trials"][number]["params"]
        assert config.train.lr == 0.02
        assert config.train.embedding.lr == params["train.embedding.lr"]
        assert list(config.tower.expert_widths) == params["tower.expert_widths"]  # type: ignore[union-attr]
        assert config.wide.kind == params["wide"]
        assert (by_default / f"trials/{number:03d}/checkpoints").exists()
    assert found["trials"][0]["params"]["train.embedding.lr"] == 0.1


@contextmanager
def killing(word: str) -> Iterator[None]:
    """End every process whose command line has the word, as soon as it is there."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for number in processes_of(Path(word)):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_failures_that_are_no_trials_fault_end_the_call_and_are_tried_again(
    world: Path, by_default: Path, tmp_path: Path, recmtl_cli: Recmtl
) -> None:
    out = Path(shutil.copytree(by_default, tmp_path / "out"))
    before = json.loads((out / "tune.json").read_text())

    def call(trials: int) -> tuple[int, str, str]:
        options = ["--trials", trials, "--jobs", 1, "--out", out, "train.lr=0.02"]
        return recmtl_cli("tune", world / "spec.yaml", *options)

    with killing(f"{out}/specs"):
        code, text, err = call(9)
        assert (code, text) == (1, "")
        assert "RecMTLError: 3 trials failed one after the other, for no fault of their" in err
        assert "was killed by signal 9 (SIGKILL)" in err
        assert json.loads((out / "tune.json").read_text()) == before
        code, text, _ = call(3)
        assert code == 1
        assert "Trial 2 failed: was killed by signal 9" in text
        assert "The same command tries it again." in text
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines if "params" in line] == [0, 1, 2, 3, 4]
    code, text, _ = call(3)
    assert code == 0
    after = json.loads((out / "tune.json").read_text())
    assert after["failed"] == []
    assert after["trials"][:2] == before["trials"]
    assert after["trials"][2]["params"] == lines[4]["params"]
    assert after["trials"][2]["value"] is not None


@pytest.mark.slow
def test_a_spec_that_cannot_be_trained_ends_it_with_its_own_words(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"nothing to start from\. What it said:\nSpecError: .*seq"):
        tuned(world, tmp_path / "out", search=None, overrides=["tower=dtrn"], trials=3)
    assert not (tmp_path / "out/tune.json").exists()
    one_class = tmp_path / "one_class"
    write_world(one_class)
    valid = pl.read_parquet(one_class / "valid.parquet").with_columns(click=pl.lit(0, pl.Int8))
    valid.with_columns(buy=pl.lit(0, pl.Int8)).write_parquet(one_class / "valid.parquet")
    with pytest.raises(DataError, match=r"`ctr/auc` is not defined on the validation rows"):
        tuned(one_class, tmp_path / "undefined", search={"wide": {"choices": ["none", "fm"]}})


def test_what_is_wrong_is_said_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for trials in (0, -1, 1.5, True, 10_001):
        with pytest.raises(SpecError, match=r"^trials: must be a whole number from 1 to 10000"):
            tuned(world, out, trials=trials)
    for changes, message in (
        ({"seed": -1}, r"^seed: must be a whole number from 0 to"),
        ({"jobs": 10_000}, r"^jobs: must be a whole number from 1 to"),
        ({"overrides": ["data.valid=null"]}, r"no validation rows to judge trials by"),
        ({"overrides": ["wide=fm", "tower=mmoe", "tower.dropout=0"]}, r"nothing is left to search"),
        ({"search": {"wid": {"choices": ["fm"]}}}, r"^search:1: `wid`: fm: unknown key `wid`"),
        ({"search": world / "none.yaml"}, r"none\.yaml: there is no such file"),
    ):
        with pytest.raises(SpecError, match=message):
            tuned(world, out, **changes)
    with pytest.raises(DataError, match=r"nowhere"):
        tuned(world, out, data=tmp_path / "nowhere")
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists and is no search"):
        tuned(world, out)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_without_optuna_the_extra_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recmtl_cli: Recmtl
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "recmtl.studies.proposals", raising=False)
    said = "`recmtl tune` needs `optuna`, which is not installed. Run `pip install 'recmtl[tune]'`."
    with pytest.raises(MissingExtraError) as caught:
        tuned(world, tmp_path / "out")
    assert str(caught.value) == said
    code, out, err = recmtl_cli("tune", world / "spec.yaml", "--out", tmp_path / "out")
    assert (code, out, err) == (4, "", f"MissingExtraError: {said}\n")
    assert not (tmp_path / "out").exists()


def test_a_search_file_is_wrong_with_exit_code_2(
    world: Path, tmp_path: Path, recmtl_cli: Recmtl
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("train.lr: {low: 1, high: 0}\nwide: {choices: [fmm]}\n")
    options = ["--search", file, "--out", tmp_path / "out"]
    code, _, err = recmtl_cli("tune", world / "spec.yaml", *options)
    assert code == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        "SpecError",
        f"{file}:2",
    ]
    assert issubclass(SpecError, RecMTLError)
