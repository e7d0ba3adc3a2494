"""Which checkpoints a run names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recmtl import checkpoint
from recmtl.checkpoint import Index
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
    (folder.parent / "index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected the keys `best` and `last`"):
        checkpoint.read_index(folder.parent)


@pytest.mark.parametrize("name", ["..", "../other/step-00000001", "/tmp", "", 7])
def test_index_names_nothing_outside_its_folder(folder: Path, name: object) -> None:
    text = json.dumps({"best": name, "last": folder.name})
    (folder.parent / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no name of a folder beside it"):
        checkpoint.read_index(folder.parent)
