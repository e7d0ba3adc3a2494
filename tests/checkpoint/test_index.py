"""Which checkpoints a run names."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl import checkpoint
from recmtl.checkpoint import Index
from recmtl.checkpoint.sealed import sealed
from recmtl.errors import CheckpointError


def test_index_names_best_and_last(folder: Path) -> None:
    checkpoints = folder.parent
    assert checkpoint.read_index(checkpoints) == Index(None, None)
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        checkpoint.best(checkpoints)
    checkpoint.write_index(checkpoints, best=None, last=folder.name)
    assert checkpoint.last(checkpoints) == folder
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        checkpoint.best(checkpoints)
    checkpoint.write_index(checkpoints, best=folder.name, last=folder.name)
    assert checkpoint.best(checkpoints) == folder


def test_index_that_names_what_is_not_there_is_corrupt(folder: Path) -> None:
    checkpoint.write_index(folder.parent, best=folder.name, last="step-00000009")
    with pytest.raises(CheckpointError, match=r"step-00000009: missing, but .*index\.json names"):
        checkpoint.read_index(folder.parent)
    index = folder.parent / "index.json"
    for text, message in (
        ("[]", "was not written by recmtl"),
        ("[" * 100_000, "cannot be read as JSON"),
        (sealed({"best": None}), "expected the keys `best` and `last`"),
        (sealed({"best": None, "last": None}), "expected the key `files`"),
        (sealed({"best": None, "last": None, "files": {}}).replace("null", "{}", 1), "its sha256"),
    ):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=rf"index\.json: {message}"):
            checkpoint.read_index(folder.parent)


def test_index_knows_the_lists_of_its_checkpoints(folder: Path) -> None:
    checkpoint.write_index(folder.parent, best=folder.name, last=folder.name)
    files = folder / "files.json"
    files.write_text(files.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"step-00000007/files\.json: its sha256"):
        checkpoint.best(folder.parent)


def test_a_checkpoint_that_a_killed_process_had_set_aside_comes_back(folder: Path) -> None:
    checkpoint.write_index(folder.parent, best=folder.name, last=folder.name)
    folder.rename(folder.with_name(f".{folder.name}.0a1b2c3d.old"))
    assert checkpoint.best(folder.parent) == folder
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["..", "../other/step-00000001", "/tmp", "", 7])
def test_index_names_nothing_outside_its_folder(folder: Path, name: object) -> None:
    text = sealed({"best": name, "last": folder.name, "files": {}})
    (folder.parent / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no name of a folder beside it"):
        checkpoint.read_index(folder.parent)
