"""A full disk, and a folder that cannot be written: one error, which names the file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from recmtl.cli import main
from recmtl.run import Run
from tests.runs import leftovers, run_differences
from tests.server import Server

SMALL = [
    *("tower={kind: shared_bottom, expert_widths: [8], head_widths: []}", "train.epochs=1"),
    *("train.batch_size=512", "train.checkpoint_every_steps=4"),
]
Recmtl = Callable[..., tuple[int, str]]
Limit = Callable[[int], None]


@pytest.fixture
def recmtl(capfd: pytest.CaptureFixture[str]) -> Recmtl:
    """`recmtl(args...)` -> exit code and stderr."""

    def called(*args: object) -> tuple[int, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            main([str(arg) for arg in args])
        except SystemExit as ended:
            return int(ended.code or 0), capfd.readouterr().err
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("main returned")

    return called


@pytest.fixture
def largest_file() -> Iterator[Limit]:
    """`largest_file(n)` lets no file grow beyond n bytes: what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def one_error(code: int, err: str, name: str) -> bool:
    """Whether it ended with 1 and one block that names a file and says what is wrong."""
    last = err.strip().splitlines()[-1]
    return code == 1 and "Traceback" not in err and name in last and "Error: " in last


@pytest.fixture(scope="module")
def whole(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recmtl import api

    out = tmp_path_factory.mktemp("whole") / "run"
    api.train(funnel / "spec.yaml", out=out, overrides=SMALL)
    return out


@pytest.mark.parametrize(
    ("size", "name"), [(2_000, "run: "), (40_000, "step-00000004: ")], ids=["encoders", "tables"]
)
def test_training_that_finds_the_disk_full_goes_on_when_there_is_space(
    size: int,
    name: str,
    recmtl: Recmtl,
    largest_file: Limit,
    whole: Path,
    funnel: Path,
    tmp_path: Path,
) -> None:
    args = ("train", funnel / "spec.yaml", "--out", tmp_path / "run", *SMALL)
    largest_file(size)
    code, err = recmtl(*args)
    assert one_error(code, err, name), err
    assert "disk is full" in err
    if name == "run: ":
        assert list(tmp_path.iterdir()) == []
    else:
        assert leftovers(tmp_path / "run") == []
        assert not Run(tmp_path / "run").finished
    largest_file(2**40)
    code, err = recmtl(*args)
    assert code == 0, err
    assert run_differences(tmp_path / "run", whole) == {}


def test_scores_a_page_and_a_simulation_that_find_the_disk_full(
    recmtl: Recmtl, largest_file: Limit, whole: Path, funnel: Path, tmp_path: Path
) -> None:
    scores, log = tmp_path / "scores", funnel / "train.parquet"
    calls = {
        "part-00000.parquet: ": (
            "score",
            whole,
            "--data",
            funnel / "train.parquet",
            "--out",
            scores,
        ),
        "report.html: ": ("report", whole),
        "train.parquet: ": ("simulate", tmp_path / "simulated", "--rows", "2000"),
    }
    for name, args in calls.items():
        largest_file(5_000)
        code, err = recmtl(*args)
        assert one_error(code, err, name), err
        assert "disk is full" in err
        largest_file(2**40)
        written = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != ".scoring.json"]
        assert written == []
        assert leftovers(whole) == []
        assert recmtl(*args)[0] == 0
        if name == "part-00000.parquet: ":
            found = pl.read_parquet(scores / "part-00000.parquet").height
            assert found == pl.read_parquet(log).height
            for file in scores.iterdir():
                file.unlink()
    (whole / "report.html").unlink()


@pytest.mark.parametrize("command", ["train", "score", "simulate"])
def test_a_place_that_cannot_be_written_is_named(
    command: str, recmtl: Recmtl, run: Path, funnel: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    args = {
        "train": (funnel / "spec.yaml", "--out", out, *SMALL),
        "score": (run, "--data", funnel / "test.parquet", "--out", out),
        "simulate": (out, "--rows", "2000"),
    }[command]
    code, err = recmtl(command, *args)
    assert one_error(code, err, f"{tmp_path / 'file'}"), err
    assert (tmp_path / "file").read_text() == "mine"
    assert "fit encoders" not in err  # before any long work


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_full_and_a_read_only_file_system(whole: Path, funnel: Path, tmp_path: Path) -> None:
    disk, pages = tmp_path / "disk", 0
    disk.mkdir()
    for file in whole.rglob("*"):
        pages += -(-file.stat().st_size // 4096)
    small = 4 * pages + 60  # kB: room for one checkpoint, not for two
    mount = f"mount -t tmpfs -o size={small}k tmpfs {disk}"
    # A name space of its own: the mount goes when the process does, whatever happens in between.
    unshare = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    call = Server(unshare)
    enter = ["nsenter", "-t", str(call.process.pid), "-m", "mount", "-o"]
    seen = Path(f"/proc/{call.process.pid}/root{disk}")
    args = ("train", funnel / "spec.yaml", "--out", disk / "run", *SMALL)
    try:
        code, err = call(None, *args)
        assert one_error(code, err, f"{disk}/run/checkpoints/step-"), err
        assert "disk is full" in err
        assert leftovers(seen / "run") == []
        subprocess.run([*enter, "remount,size=100m", str(disk)], check=True)
        code, err = call(None, *args)
        assert code == 0, err
        assert run_differences(seen / "run", whole) == {}
        subprocess.run([*enter, "remount,ro", str(disk)], check=True)
        code, err = call(None, "report", disk / "run")
        assert one_error(code, err, f"{disk}/run/report.html: "), err
        assert "Read-only file system" in err
        code, err = call(None, *args[:3], disk / "other", *SMALL)
        assert one_error(code, err, f"{disk}/other: "), err
        code, err = call(None, "eval", disk / "run", "--data", funnel / "test.parquet")
        assert code == 0, err
    finally:
        call.close()
