"""Tensors in and out, in one process. Several processes are in tests/distributed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from recmtl import checkpoint
from recmtl.errors import CheckpointError


def tensor_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def test_holds_safetensors_and_json_alone(folder: Path) -> None:
    suffixes = sorted(file.suffix for file in folder.iterdir())
    assert suffixes == [".json", ".json", ".safetensors"]
    assert list(folder.parent.iterdir()) == [folder]  # no temporary folder stays


def test_loads_in_place(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    loaded = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    checkpoint.load_into(folder, loaded)
    for key, tensor in tensors.items():
        assert torch.equal(loaded[key], tensor), key


def test_loads_a_part_in_place(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    part = {"net/tower.last": torch.zeros(3)}
    checkpoint.load_into(folder, part)
    assert torch.equal(part["net/tower.last"], tensors["net/tower.last"])


def test_large_tensors_get_files_of_their_own(
    tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.checkpoint.tensors.OWN_FILE_BYTES", 100)
    checkpoint.save(tmp_path / "a", tensors, None)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 2
    found = checkpoint.load_full(tmp_path / "a")
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    loaded = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    checkpoint.load_into(tmp_path / "a", loaded)
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_nothing_to_save_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "empty", {}, [])
    checkpoint.load_into(tmp_path / "empty", {})
    assert checkpoint.load_full(tmp_path / "empty") == {}


def test_replaces_what_is_there(folder: Path) -> None:
    checkpoint.save(folder, {"net/x": torch.ones(1)}, 1)
    assert list(checkpoint.load_full(folder)) == ["net/x"]
    assert len(list(folder.parent.iterdir())) == 1


@pytest.mark.parametrize("state", [float("nan"), {"a": {1, 2}}, torch.ones(1)])
def test_state_that_is_no_json_is_refused_and_leaves_nothing(tmp_path: Path, state: object) -> None:
    with pytest.raises(CheckpointError, match="the state cannot be written as JSON"):
        checkpoint.save(tmp_path / "a" / "b", {}, state)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_an_os_error_and_leaves_nothing(
    tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", full)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path / "a", tensors, None)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_misshapen_tensors_are_all_named(folder: Path) -> None:
    wanted = {"net/other": torch.zeros(3), "tables/item.id/weight": torch.zeros(8, 4)}
    expected = r"holds no `net/other`.*\n.*`tables/item\.id/weight` is \[7, 4\].*needs \[8, 4\]"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load_into(folder, wanted)
