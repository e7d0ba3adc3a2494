"""``checkpoints/index.json``: which checkpoints of a run matter."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from recmtl._files import write_json
from recmtl.checkpoint.manifest import is_name, read_json
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
        CheckpointError: ``index.json`` is corrupt or names a checkpoint that is not there.
    """
    path = checkpoints / _INDEX
    if not path.is_file():
        return Index()
    value = read_json(path)
    if not isinstance(value, dict) or not set(value) >= {"best", "last"}:
        raise CheckpointError(
            f"{path}: expected the keys `best` and `last`; it was not written by recmtl."
        )
    index = Index(value["best"], value["last"])
    named = [n for n in dict.fromkeys(index) if n is not None]
    foreign = [n for n in named if not is_name(n)]
    if foreign:
        raise CheckpointError.all_of(
            [f"{path}: {n!r} is no name of a folder beside it." for n in foreign]
        )
    missing = [n for n in named if not (checkpoints / n).is_dir()]
    if missing:
        raise CheckpointError.all_of(
            [f"{checkpoints / n}: missing, but {path} names it." for n in missing]
        )
    return index


def write_index(checkpoints: Path, *, best: str | None, last: str | None) -> None:
    """Name the best and the last checkpoint of a run, atomically."""
    write_json(checkpoints / _INDEX, {"best": best, "last": last})


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
