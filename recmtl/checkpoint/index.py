"""``checkpoints/index.json``: which checkpoints of a run matter."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from recmtl._files import is_name, recover, sha256_of, write_text
from recmtl.checkpoint.manifest import MANIFEST
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.errors import CheckpointError

__all__ = ["Index", "best", "last", "read_index", "write_index"]

_INDEX = "index.json"


class Index(NamedTuple):
    """Which checkpoints of a run matter, by the name of their folder."""

    best: str | None = None
    last: str | None = None


def read_index(checkpoints: Path) -> Index:
    """Best and last checkpoint of a run; both None where none was written yet.

    Raises:
        CheckpointError: ``index.json`` is corrupt, or names a checkpoint that is not there or whose
            ``files.json`` is not the one that was written.
    """
    path = checkpoints / _INDEX
    while path.is_file():
        before = path.read_bytes()
        try:
            return _read(path)
        except CheckpointError:
            if path.read_bytes() == before:
                raise
            # a training process has named others meanwhile
    return Index()


def _read(path: Path) -> Index:
    checkpoints, value = path.parent, read_sealed(path)
    if not set(value) >= {"best", "last"}:
        raise CheckpointError(
            f"{path}: expected the keys `best` and `last`; it was not written by recmtl."
        )
    index, sums = Index(value["best"], value["last"]), value.get("files")
    foreign = [n for n in index if n is not None and not is_name(n)]
    problems = [f"{path}: {str(n)[:100]!r} is no name of a folder beside it." for n in foreign]
    if not isinstance(sums, dict):
        problems.append(f"{path}: expected the key `files`; it was not written by recmtl.")
    if problems or not isinstance(sums, dict):
        raise CheckpointError.all_of(problems)
    named = [n for n in dict.fromkeys(index) if n is not None]
    for name in named:
        recover(checkpoints / name)
        manifest = checkpoints / name / MANIFEST
        if not manifest.parent.is_dir():
            problems.append(f"{manifest.parent}: missing, but {path} names it.")
        elif manifest.is_file() and sha256_of(manifest) != sums.get(name):
            problems.append(
                f"{manifest}: its sha256 is not the recorded one; it was changed or damaged. "
                "Restore it, or use another checkpoint."
            )
    if problems:
        raise CheckpointError.all_of(problems)
    return index


def write_index(checkpoints: Path, *, best: str | None, last: str | None) -> None:
    """Name the best and the last checkpoint of a run, atomically."""
    manifests = {name: checkpoints / name / MANIFEST for name in (best, last) if name is not None}
    sums = {name: sha256_of(file) for name, file in manifests.items() if file.is_file()}
    write_text(checkpoints / _INDEX, sealed({"best": best, "last": last, "files": sums}))


def best(checkpoints: Path) -> Path:
    """Folder of the best checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    return _named(checkpoints, read_index(checkpoints).best)


def last(checkpoints: Path) -> Path:
    """Folder of the last checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    return _named(checkpoints, read_index(checkpoints).last)


def _named(checkpoints: Path, name: str | None) -> Path:
    if name is None:
        raise CheckpointError(f"{checkpoints}: holds no checkpoint yet; train the run first.")
    return checkpoints / name
