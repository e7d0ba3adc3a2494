"""The command line: quick help, one JSON object, exit codes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest

from recmtl import __version__
from recmtl.checkpoint.sealed import read_sealed
from recmtl.cli import main
from recmtl.errors import CheckpointError, DataError, MissingExtraError, RecMTLError, SpecError
from tests.runs import change_state, copied

Recmtl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recmtl(capsys: pytest.CaptureFixture[str]) -> Recmtl:
    """`recmtl(args...)` -> exit code, stdout, stderr."""

    def called(*args: object) -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit, match=r"^\d+$") as ended:
            main([str(arg) for arg in args])
        signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        code: Any = ended.value.code
        return code, out, err

    return called


def one_object(out: str) -> dict[str, Any]:
    """The one JSON object on stdout; no NaN, one line, nothing else."""
    assert out.count("\n") == 1, out

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return found


METRICS = {"n", "positives", "auc", "gauc", "logloss", "ne", "pcoc", "ece"}
QUICK = ["tower={kind: shared_bottom, expert_widths: [4], head_widths: []}", "train.epochs=1"]


def test_version_needs_no_installed_metadata(
    recmtl: Recmtl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: pytest.fail(f"asked for {name}"))
    code, out, _ = recmtl("--version")
    assert (code, out) == (0, f"recmtl, version {__version__}\n")


def test_simulate_prints_its_truth(recmtl: Recmtl, tmp_path: Path) -> None:
    code, out, _ = recmtl("simulate", tmp_path / "funnel", "--rows", 2000, "--seed", 3, "--json")
    found = one_object(out)
    assert code == 0
    assert set(found) >= {"spec", "base_rates", "bayes_auc", "additive_auc"}
    for key in ("base_rates", "bayes_auc", "additive_auc"):
        assert set(found[key]) == {"ctr", "cvr", "ctcvr"}
    sizes = [
        pl.read_parquet(tmp_path / "funnel" / f"{part}.parquet").height
        for part in ("train", "valid", "test")
    ]
    assert sizes == [1600, 200, 200]
    assert (found["users"], found["items"], found["signal"]) == (5_000, 2_000, 1.0)
    code, _, err = recmtl("doctor", found["spec"])
    assert code == 0, err


def test_simulate_takes_the_sizes_of_the_world(recmtl: Recmtl, tmp_path: Path) -> None:
    sizes = ("--users", 20, "--items", 30, "--signal", 0.5)
    code, out, _ = recmtl("simulate", tmp_path / "funnel", "--rows", 2000, *sizes, "--json")
    found = one_object(out)
    assert code == 0
    assert (found["users"], found["items"], found["signal"]) == (20, 30, 0.5)
    log = pl.read_parquet(tmp_path / "funnel" / "train.parquet")
    assert (log["user_id"].n_unique(), log["item_id"].n_unique()) == (20, 30)
    code, _, err = recmtl(
        "simulate", tmp_path / "other", "--rows", 9, "--users", 1, "--items", 1, "--signal", 11
    )
    assert code == 2
    for name in ("rows", "users", "items", "signal"):
        assert f"`{name}` must be" in err


def test_doctor_prints_findings(recmtl: Recmtl, funnel: Path) -> None:
    code, out, _ = recmtl("doctor", funnel / "spec.yaml", "--json")
    found = one_object(out)
    assert code == 0
    keys = {"severity", "where", "what", "advice", "exit_code"}
    assert all(set(finding) == keys for finding in found["findings"])
    code, out, _ = recmtl("doctor", funnel / "spec.yaml", "train.epochs=no", "--json")
    assert code == 2
    assert one_object(out)["findings"][0]["severity"] == "error"
    code, out, _ = recmtl("doctor", funnel / "spec.yaml", "--data", funnel / "absent")
    assert code == 3
    assert "error   " in out
    assert out.endswith("\n1 error, 0 warnings, 1 note\n")


def test_train_prints_the_best(recmtl: Recmtl, funnel: Path, tmp_path: Path) -> None:
    spec, out_folder = funnel / "spec.yaml", tmp_path / "run"
    code, out, err = recmtl("train", spec, "--out", out_folder, "--json", *QUICK)
    assert code == 0, err
    found = one_object(out)
    assert set(found) == {"run", "best", "rows_per_s", "epochs"}
    assert found["run"] == str(out_folder)
    assert found["epochs"] == 1
    assert found["rows_per_s"] > 0
    assert "rows/s" in err
    tasks = {key.split("/")[1] for key in found["best"] if key.count("/") == 2}
    assert tasks == {"ctr", "cvr", "ctcvr"}
    code, out, err = recmtl("eval", out_folder, "--data", funnel / "valid.parquet", "--json")
    evaluated = one_object(out)["tasks"]
    for task in tasks:
        expected = evaluated[task]["auc"]
        assert found["best"][f"valid/{task}/auc"] == pytest.approx(expected, abs=1e-4)


def test_eval_prints_tasks_and_segments(recmtl: Recmtl, run: Path, funnel: Path) -> None:
    code, out, _ = recmtl("eval", run, "--data", funnel / "test.parquet", "--json")
    found = one_object(out)
    assert code == 0
    assert set(found) == {"rows", "tasks", "segments", "contradictions"}
    assert all(set(metrics) >= METRICS for metrics in found["tasks"].values())
    rows = pl.read_parquet(funnel / "test.parquet")
    assert found["rows"] == found["tasks"]["ctr"]["n"] == rows.height
    assert found["tasks"]["cvr"]["n"] == rows["click"].sum()
    assert list(found["segments"]) == ["device"]
    code, out, _ = recmtl(
        "eval", run, "--data", funnel / "test.parquet", "--by", "gender", "--json"
    )
    by_gender = one_object(out)["segments"]
    counts = dict(rows["gender"].cast(pl.String).value_counts().iter_rows())
    assert {v: tasks["ctr"]["n"] for v, tasks in by_gender["gender"].items()} == counts
    code, out, err = recmtl("eval", run, "--data", funnel / "test.parquet", "--by", "gander")
    assert (code, out) == (3, "")
    assert "`gander`" in err


def test_eval_in_words_has_a_line_a_task(recmtl: Recmtl, run: Path, funnel: Path) -> None:
    code, out, _ = recmtl("eval", run, "--data", funnel / "test.parquet")
    assert code == 0
    first = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert first[:5] == ["600", "task", "ctr", "cvr", "ctcvr"]
    assert "device = " in out


def test_score_prints_parts(recmtl: Recmtl, run: Path, funnel: Path, tmp_path: Path) -> None:
    args = ("score", run, "--data", funnel / "test.parquet", "--out", tmp_path / "scores")
    code, out, _ = recmtl(*args, "--keep", "user_id, item_id", "--json")
    found = one_object(out)
    assert code == 0
    assert set(found) == {"rows", "parts", "rows_per_s", "drift"}
    assert (found["rows"], found["parts"]) == (600, 1)
    assert found["drift"]["reference"] == {"rows": 600, "rows_of": "validation"}
    scored = pl.read_parquet(tmp_path / "scores/part-00000.parquet")
    assert scored.columns[:2] == ["user_id", "item_id"]


def test_score_says_what_drifted_and_strict_ends_with_3(
    recmtl: Recmtl, run: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    rows.with_columns(pl.col("price") * 4).write_parquet(tmp_path / "moved.parquet")
    args = ("score", run, "--data", tmp_path / "moved.parquet", "--out", tmp_path / "scores")
    code, out, err = recmtl(*args)
    assert code == 0
    assert "drift: beside 600 validation rows" in out
    assert "warning: drifted by more than 0.2: feature `price`" in err
    code, out, err = recmtl(*args, "--strict", "--json")
    assert code == 3
    assert "feature `price`" in one_object(out)["drift"]["over"]
    assert "are written whole" in err
    assert pl.read_parquet(tmp_path / "scores/part-00000.parquet").height == rows.height
    assert recmtl(*args, "--strict", "--drift-threshold", "50")[0] == 0
    assert recmtl(*args, "--drift-threshold", "0")[0] == 2
    assert recmtl(*args, "--workers", "0")[0] == 2


def test_strict_needs_something_to_compare_with(
    recmtl: Recmtl, run: Path, funnel: Path, tmp_path: Path
) -> None:
    old = copied(run, tmp_path)
    files = read_sealed(old / "run.json")["files"]
    change_state(old, files={k: v for k, v in files.items() if k != "reference.json"})
    (old / "reference.json").unlink()
    args = ("score", old, "--data", funnel / "test.parquet", "--out", tmp_path / "scores")
    code, _, err = recmtl(*args, "--strict")
    assert code == 2
    assert "there is nothing that `--strict` could compare the log with" in err
    assert not (tmp_path / "scores").exists()
    code, out, _ = recmtl(*args)
    assert code == 0
    assert "has no reference to compare with" in out


def test_report_prints_its_path(recmtl: Recmtl, run: Path) -> None:
    code, out, _ = recmtl("report", run, "--json")
    assert code == 0
    assert Path(one_object(out)["path"]).is_file()
    assert recmtl("report", run)[1].strip().endswith("report.html")


def test_report_prints_what_the_page_shows(recmtl: Recmtl, run: Path, funnel: Path) -> None:
    found = one_object(recmtl("report", run, "--json", "--data", funnel)[1])
    keys = ["path", "insights", "experts", "refinement", "conflict", "importance", "missing"]
    assert list(found) == keys
    assert found["missing"] is None
    assert list(found["importance"]["tasks"]) == ["ctr", "cvr", "ctcvr"]
    assert found["conflict"]["pairs"][0]["tasks"] == ["ctr", "cvr"]
    assert found["experts"][0]["experts"] == ["shared 1", "shared 2"]
    sentences = recmtl("report", run)[1].splitlines()[:-1]
    assert sentences == [insight["sentence"] for insight in found["insights"]]
    quick = one_object(recmtl("report", run, "--json", "--no-analysis")[1])
    assert (quick["conflict"], quick["importance"]) == (None, None)
    assert quick["experts"] == found["experts"]


def test_explain_tells_of_one_row(recmtl: Recmtl, run: Path, funnel: Path) -> None:
    asked = ("explain", run, "--data", funnel / "test.parquet", "--row", "3")
    code, out, _ = recmtl(*asked, "--task", "ctr")
    assert code == 0
    assert "row 3, compared with 64 validation rows" in out
    assert "not Shapley values" in out
    found = one_object(recmtl(*asked, "--json")[1])
    assert list(found) == ["row", "reference", "tasks", "gates"]
    first = found["tasks"]["ctr"]["features"][0]
    line = next(line for line in out.splitlines() if line.startswith(f"{first['feature']} "))
    assert f"{first['change']:+.4f}" in line
    assert "history" in out
    assert recmtl(*asked, "--task", "nothing")[0] == 2
    assert recmtl(*asked[:-1], "600")[0] == 3
    assert recmtl(*asked[:-1], "-1")[0] == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("a.yaml:1: wrong."), 2),
        (DataError("a.parquet: wrong."), 3),
        (MissingExtraError("torch is missing."), 4),
        (CheckpointError("run: wrong."), 5),
        (RecMTLError("wrong."), 1),
        (OSError(28, "No space left on device", "part-00000.parquet"), 1),
        (RuntimeError("boom"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("no such option"), 2),
    ],
)
def test_each_error_has_its_code(
    error: BaseException, code: int, recmtl: Recmtl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("recmtl.report.make_report", fail)
    found, out, err = recmtl("report", "run", "--json")
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    if code != 130:
        assert str(error.args[-1] if isinstance(error, OSError) else error) in err
    assert err.count("\n") <= 4


def test_debug_shows_where(recmtl: Recmtl, tmp_path: Path) -> None:
    code, out, err = recmtl("report", tmp_path, "--debug")
    assert (code, out) == (5, "")
    assert "Traceback" in err
    assert "is not a run folder" in err
    assert "Traceback" not in recmtl("report", tmp_path)[2]


def test_help_names_every_command(recmtl: Recmtl) -> None:
    code, out, _ = recmtl("--help")
    assert code == 0
    studies = ("compare", "tune")
    serving = ("score", "export", "verify", "explain")
    for command in ("simulate", "doctor", "train", "eval", *serving, "report", *studies):
        assert f"\n  {command}" in out
        code, text, _ = recmtl(command, "-h")
        assert code == 0
        assert "--json" in text
        assert "--debug" in text


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "recmtl", *map(str, args)]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from recmtl.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'polars', 'lightning', 'matplotlib', 'torchrec', 'pydantic'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_ctrl_c_ends_training_with_130_and_it_goes_on(funnel: Path, tmp_path: Path) -> None:
    quick = [QUICK[0], "train.epochs=4", "train.batch_size=64", "train.checkpoint_every_steps=20"]
    call = command("train", funnel / "spec.yaml", "--out", tmp_path / "run", "--json", *quick)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    index = tmp_path / "run/checkpoints/index.json"
    until = time.monotonic() + 120
    while not index.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert "goes on from here" in err
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["status"] == "running"
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["epochs"] == 4
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


@pytest.mark.slow
def test_ctrl_c_ends_scoring_with_130_and_it_goes_on(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    pl.concat([rows] * 500).write_parquet(tmp_path / "log.parquet")
    call = command("score", run, "--data", tmp_path / "log.parquet", "--out", tmp_path / "scores")
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (tmp_path / "scores/part-00000.parquet").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    if process.returncode:  # it may have been done already
        assert (process.returncode, out) == (130, ""), err
        assert "Traceback" not in err
        left = {path.name for path in (tmp_path / "scores").iterdir()}
        assert ".scoring.json" in left
        assert all(name.startswith("part-") for name in left - {".scoring.json"})
    done = subprocess.run([*call, "--json"], capture_output=True, text=True, check=True)
    assert one_object(done.stdout)["rows"] == 500 * rows.height
