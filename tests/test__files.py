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

from recmtl._files import atomic_folder, atomic_path, sha256_of, write_json, write_text


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
