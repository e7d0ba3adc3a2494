"""Files and folders appear whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from recmtl._files import (
    atomic_folder,
    atomic_path,
    exclusive,
    naming,
    recover,
    require_writable,
    sha256_of,
    sweep,
    sweep_within,
    write_json,
    write_text,
)
from recmtl.errors import SpecError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep/er/file.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # the same file system, so that renaming works
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt("stop"), SystemExit(1)])
def test_an_error_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(type(error), match=str(error)), atomic_path(target) as temporary:  # noqa: PT012  # the error is raised inside
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"file\.txt"), atomic_path(tmp_path / "file.txt"):
        pass
    assert names(tmp_path) == []


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep/folder"
    for content in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub/file.txt").write_text(content)
        assert (target / "sub/file.txt").read_text() == content
        assert names(target.parent) == ["folder"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt("stop")])
def test_an_error_leaves_the_old_folder(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(type(error), match=str(error)), atomic_folder(target) as temporary:  # noqa: PT012  # the error is raised inside
        (temporary / "half.txt").write_text("half")
        raise error
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["folder"]


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "größe", "value": None})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "name": "größe",
        "value": None,
    }
    assert "größe" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"value": float("nan")})
    assert names(tmp_path) == ["a.json"]


def test_the_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    write_text(tmp_path / "text", "")
    assert sha256_of(tmp_path / "text") == hashlib.sha256(b"").hexdigest()


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("old")
    done = python(
        """
        import resource, signal, sys
        from pathlib import Path
        from recmtl._files import atomic_folder, write_text

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        folder = Path(sys.argv[1])
        for write in (
            lambda: write_text(folder / "old.txt", "x" * 5000),
            lambda: write_text(folder / "new.txt", "x" * 5000),
        ):
            try:
                write()
            except OSError as error:
                print(type(error).__name__)
        try:
            with atomic_folder(folder / "sub") as temporary:
                (temporary / "a").write_text("x")
                (temporary / "b").write_text("x" * 5000)
        except OSError as error:
            print(type(error).__name__)
        """,
        tmp_path,
    )
    assert done.stdout.split() == ["OSError"] * 3, done.stderr
    assert names(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    done = python(
        """
        import os, signal, sys
        from pathlib import Path
        from recmtl._files import atomic_folder, atomic_path

        folder = Path(sys.argv[1])
        with atomic_folder(folder / "run") as temporary, atomic_path(folder / "file.txt") as file:
            (temporary / "half").write_text("half")
            file.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file.txt").read_text() == "old"
    assert not (tmp_path / "run").exists()
    assert all(name == "file.txt" or name.startswith(".") for name in names(tmp_path))


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    others = (".file.txt.backup.tmp", ".other.txt.0a1b2c3d.tmp", ".file.txt.0a1b2c3d.tmp.tmp")
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".file.txt.0a1b2c3d.tmp").write_text("half")
    (tmp_path / ".file.txt.4e5f6a7b.old").mkdir()
    with atomic_path(tmp_path / "file.txt") as living:
        living.write_text("under way")
        sweep(tmp_path / "file.txt")  # it is not there yet: what is left may be all there is
        assert (tmp_path / ".file.txt.0a1b2c3d.tmp").exists()
        (tmp_path / "file.txt").write_text("old")
        sweep(tmp_path / "file.txt")
        assert names(tmp_path) == sorted([living.name, "file.txt", *others])
    assert names(tmp_path) == sorted(["file.txt", *others])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.file.txt.0a1b2c3d.tmp").write_text("half")
    sweep_within(tmp_path)
    assert names(tmp_path / "sub") == []
    assert names(tmp_path) == sorted(["file.txt", "sub", others[0], others[2]])


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_at_once_or_can_be_recovered(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(content: str) -> None:
        with atomic_folder(tmp_path / "run") as folder:
            (folder / "file").write_text(content)

    publish("old")
    if not exchange:
        monkeypatch.setattr("recmtl._files._exchange", lambda one, other: False)
    publish("new")
    assert (tmp_path / "run/file").read_text() == "new"
    assert names(tmp_path) == ["run"]
    assert not recover(tmp_path / "run")
    os.rename(tmp_path / "run", tmp_path / ".run.0a1b2c3d.old")  # killed between two renames
    assert not recover(tmp_path / "ru")
    assert recover(tmp_path / "run")
    assert (tmp_path / "run/file").read_text() == "new"


def test_a_folder_that_holds_something_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").write_text("mine")
    with (
        pytest.raises(OSError, match="not empty"),
        atomic_folder(tmp_path / "run", replace=False) as folder,
    ):
        (folder / "file").write_text("x")
    assert names(tmp_path / "run") == ["mine"]
    assert names(tmp_path) == ["run"]


def test_errors_of_a_full_disk_name_the_file_whoever_raises_them(tmp_path: Path) -> None:
    file = tmp_path / "part.parquet"
    raised = {
        "python": OSError(28, "No space left on device"),
        "rust": ValueError("parquet: underlying IO error: No space left on device (os error 28)"),
        "temporary": OSError(30, "Read-only file system", f"{tmp_path}/.run.0a1b2c3d.tmp/a"),
    }
    for error in raised.values():
        with pytest.raises(OSError, match=r"part\.parquet'$") as found, naming(file):
            raise error
        assert found.value.filename == str(file)
    for other in (ValueError("no"), OSError(2, "No such file", "log"), ValueError("(os error 2)")):
        with pytest.raises(type(other)) as found, naming(file):  # the same object
            raise other
        assert found.value is other


def test_one_process_writes_into_a_folder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path),
        pytest.raises(SpecError, match="another process is writing into it"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / "new/er/folder")
    assert names(tmp_path) == ["file"]
    with pytest.raises(NotADirectoryError, match=r"file'$"):
        require_writable(tmp_path / "file/sub/folder")
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.getuid() != 0:
        with pytest.raises(PermissionError, match=r"closed/run'$"):
            require_writable(tmp_path / "closed/run")
