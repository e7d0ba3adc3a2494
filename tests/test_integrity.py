"""One byte of any file of a run is another one: the command that reads it names the file."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from recmtl import api
from recmtl.checkpoint import best, read_index
from recmtl.checkpoint.sealed import read_sealed
from recmtl.errors import CheckpointError, SpecError
from recmtl.report import write_report
from recmtl.run import Run
from tests.runs import interrupt

FREE = ("notes.txt", "checkpoints/.nfs0001")
"""Files that are nobody's concern."""


@pytest.fixture(scope="module")
def two_checkpoints(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose best checkpoint is not the last one, with a report."""
    out = tmp_path_factory.mktemp("two") / "run"
    small = ["tower={kind: shared_bottom, expert_widths: [4], head_widths: []}"]
    small.append("train.embedding.lr=1e-30")  # nothing is learned: the first epoch stays the best
    quick = ["train.batch_size=512", "train.epochs=2", "train.lr=1e-30"]
    api.train(funnel / "spec.yaml", out=out, overrides=[*small, *quick])
    index = read_index(out / "checkpoints")
    assert index.best != index.last
    write_report(out)
    return out


@pytest.fixture
def copy(two_checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_checkpoints, tmp_path / "run"))


@contextlib.contextmanager
def flipped(file: Path, place: int) -> Iterator[None]:
    """The file with one bit of one byte changed."""
    whole = file.read_bytes()
    place %= len(whole)
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    yield
    file.write_bytes(whole)


def files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def refuses(command: Callable[[], object], file: Path) -> bool:
    """Whether a command refuses the run, and names the file."""
    try:
        command()
    except CheckpointError as error:
        return file.name in str(error) and str(file.parent) in str(error)
    return False


def test_every_byte_of_a_finished_run_counts(copy: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet").head(50)
    names = [str(file.relative_to(copy)) for file in files(copy)]
    assert {"run.json", "versions.json", "plan.txt", "metrics.jsonl", "validation.json"} <= {*names}
    assert {"config.yaml", "report.html", "reference.json", "checkpoints/index.json"} <= {*names}
    assert any(name.startswith("logs/") for name in names)
    missed = []
    for file in files(copy):
        size = file.stat().st_size
        for place in (0, size // 2, size - 1) if size else ():
            with flipped(file, place):
                if not refuses(lambda: write_report(copy), file):
                    missed.append((file.name, place))
    assert missed == []
    write_report(copy)
    assert api.evaluate(copy, rows)["rows"] == 50


def test_eval_score_and_train_refuse_what_they_read(
    copy: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet").head(50)
    config = Run(copy).config
    last = str(read_index(copy / "checkpoints").last)
    commands = {
        "eval": lambda: api.evaluate(copy, rows),
        "score": lambda: api.score(copy, funnel / "test.parquet", tmp_path / "scores"),
        "train": lambda: api.train(config, data=funnel, out=copy),
    }
    read = {name: set[str]() for name in commands}
    for file in files(copy):
        with flipped(file, file.stat().st_size // 2):
            for name, command in commands.items():
                with contextlib.suppress(SpecError):  # `train` of a finished run
                    if refuses(command, file):
                        read[name].add(str(file.relative_to(copy)))
                        assert name != "score" or not (tmp_path / "scores").exists()
            shutil.rmtree(tmp_path / "scores", ignore_errors=True)
    every = {str(file.relative_to(copy)) for file in files(copy)}
    of_last = {n for n in every if n.startswith(f"checkpoints/{last}/") and "files.json" not in n}
    assert read["eval"] == read["score"] == every - of_last  # nobody reads the last checkpoint
    assert read["train"] == every


def test_every_byte_that_an_interrupted_run_goes_on_from_counts(copy: Path, funnel: Path) -> None:
    config, index = Run(copy).config, read_index(copy / "checkpoints")
    interrupt(copy)
    read_anew = {"plan.txt", "validation.json", "reference.json"}  # written again
    unread = {str(file.relative_to(copy)) for file in files(copy)}
    unread = {n for n in unread if n.startswith(("logs/", f"checkpoints/{index.best}/"))}
    unread.discard(f"checkpoints/{index.best}/files.json")
    missed = set()
    for file in files(copy):
        name = str(file.relative_to(copy))
        if name in read_anew | unread:
            continue
        with flipped(file, file.stat().st_size // 2):
            if not refuses(lambda: api.train(config, data=funnel, out=copy), file):
                missed.add(name)
    assert missed == set()


@pytest.mark.parametrize(
    "change",
    [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])],
    ids=["removed", "truncated"],
)
def test_a_file_that_is_removed_or_truncated_is_named(
    change: Callable[[Path], object], copy: Path
) -> None:
    missed = []
    for file in files(copy):
        whole = file.read_bytes()
        change(file)
        if not refuses(lambda: write_report(copy), file):
            missed.append(str(file.relative_to(copy)))
        file.write_bytes(whole)
    may_go = [name for name in missed if name == "report.html" or name.startswith("logs/")]
    assert missed in ([], may_go)
    write_report(copy)


@pytest.mark.parametrize("folder", ["encoders", "checkpoints/BEST"])
def test_a_file_too_many_is_named(folder: str, copy: Path, funnel: Path) -> None:
    place = copy / folder.replace("BEST", best(copy / "checkpoints").name)
    (place / "extra.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"extra\.bin: is not listed in"):
        api.evaluate(copy, pl.read_parquet(funnel / "test.parquet"))


def test_files_of_others_are_left_alone(copy: Path, funnel: Path) -> None:
    for name in FREE:
        (copy / name).write_text("mine")
    shutil.rmtree(copy / "logs")
    (copy / "report.html").unlink()
    api.evaluate(copy, pl.read_parquet(funnel / "test.parquet").head(50))
    write_report(copy)
    assert all((copy / name).read_text() == "mine" for name in FREE)


def test_opening_a_run_reads_no_vocabulary_and_no_tensor(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [file for file in files(copy) if file.suffix in (".safetensors", ".parquet")]
    assert large
    for file in large:
        file.write_bytes(b"another")
    Run(copy)
    assert read_sealed(copy / "run.json")["status"] == "finished"
    with pytest.raises(CheckpointError, match=r"encoders/(vocab|counts)"):
        _ = Run(copy).encoders
