"""Checkpoints on disk, in one process. Several processes are in tests/distributed."""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch

from recmtl import checkpoint
from recmtl.checkpoint import Index
from recmtl.errors import CheckpointError

STATE = {"epoch": 2, "position": [3, None], "note": "ä"}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "tables/item.id/weight": torch.randn(7, 4, generator=generator),
        "tables/item.id/optimizer/momentum1": torch.rand(7, generator=generator),
        "net/tower.last": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "optimizer/tower.last/step": torch.tensor(5.0),
        "optimizer/tower.last/counts": torch.tensor([2**53 + 1, -1]),
    }


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.save(folder, tensors, STATE)
    return folder


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


def test_loads_whole_tensors_by_prefix_and_suffix(
    folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    found = checkpoint.load_full(folder)
    assert list(found) == sorted(tensors)
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert list(checkpoint.load_full(folder, "tables/", "/weight")) == ["item.id"]
    assert list(checkpoint.load_full(folder, "net/")) == ["tower.last"]


def test_whole_tensors_are_mapped_into_memory_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    checkpoint.save(folder, {"tables/t/weight": torch.ones(2**22, 16)}, None)  # 256 MiB
    before = resident_bytes()
    table = checkpoint.load_full(folder, "tables/", "/weight")["t"]
    assert float(table[12345, 3]) == 1.0
    assert resident_bytes() - before < 2**26


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


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


def test_state_is_read_back(folder: Path) -> None:
    assert checkpoint.read_state(folder) == STATE


def test_nothing_to_save_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "empty", {}, [])
    checkpoint.load_into(tmp_path / "empty", {})
    assert checkpoint.load_full(tmp_path / "empty") == {}


def test_replaces_what_is_there(folder: Path) -> None:
    checkpoint.save(folder, {"net/x": torch.ones(1)}, 1)
    assert list(checkpoint.load_full(folder)) == ["net/x"]
    assert len(list(folder.parent.iterdir())) == 1


def test_fingerprint_stays_with_the_folder(
    folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    first = checkpoint.fingerprint(folder)
    assert checkpoint.fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == first
    checkpoint.save(folder, tensors | {"optimizer/tower.last/step": torch.tensor(6.0)}, STATE)
    assert checkpoint.fingerprint(folder) != first


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
        checkpoint.save(tmp_path / "a", tensors, STATE)
    assert list(tmp_path.iterdir()) == []


def test_changed_bytes_are_named(folder: Path) -> None:
    file = tensor_file(folder)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    expected = rf"{re.escape(str(file))}: its sha256 is not the recorded one"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.verify(folder)
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load_into(folder, {"net/tower.last": torch.zeros(3)})


def test_truncated_file_is_named(folder: Path) -> None:
    file = tensor_file(folder)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: has .* bytes, expected"):
        checkpoint.load_full(folder)


def test_missing_file_is_named(folder: Path) -> None:
    file = tensor_file(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: missing"):
        checkpoint.verify(folder)


def test_changed_state_is_named(folder: Path) -> None:
    (folder / "state.json").write_text(
        (folder / "state.json").read_text(encoding="utf-8").replace("2", "3"), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"state\.json: its sha256"):
        checkpoint.read_state(folder)


def test_garbage_with_the_right_size_is_an_error_of_the_file(folder: Path) -> None:
    file = tensor_file(folder)
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: cannot be read"):
        checkpoint.load_full(folder)


def test_newer_format_is_refused(folder: Path) -> None:
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    (folder / "files.json").write_text(json.dumps(files | {"format": 2}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"has format 2, this recmtl reads up to 1\. Upgrade"):
        checkpoint.verify(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"is no checkpoint of recmtl, `files\.json` is missing"),
        ("{", r"files\.json: cannot be read as JSON"),
        ("[]", r"files\.json: was not written by recmtl, it has no `format`"),
        ('{"format": 1}', r"files\.json: was not written by recmtl, it has no `files`"),
        (
            '{"format": 1, "files": {}, "tensors": {}}',
            r"files\.json: does not list `state\.json`",
        ),
    ],
)
def test_foreign_folder_is_refused(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "files.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.read_state(tmp_path)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: is no folder"):
        checkpoint.load_full(tmp_path / "nowhere")


def test_missing_and_misshapen_tensors_are_all_named(folder: Path) -> None:
    wanted = {"net/other": torch.zeros(3), "tables/item.id/weight": torch.zeros(8, 4)}
    expected = r"holds no `net/other`.*\n.*`tables/item\.id/weight` is \[7, 4\].*needs \[8, 4\]"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load_into(folder, wanted)


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


def test_shards_of_several_ranks_are_put_together(tmp_path: Path) -> None:
    """Written here with safetensors alone, as two ranks with row-wise shards would."""
    from safetensors.torch import save_file

    whole = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    checkpoint.save(tmp_path / "a", {"t": whole}, None)
    tensor_file(tmp_path / "a").unlink()
    for rank, rows in enumerate((slice(0, 4), slice(4, 6))):
        info = {"t": {"saved_offsets": [rows.start, 0]}}
        save_file(
            {"t": whole[rows].clone()},
            tmp_path / "a" / f"shard-{rank}.safetensors",
            metadata={"DCP_SHARDING_INFO": json.dumps(info)},
        )
    record_files(tmp_path / "a")
    assert torch.equal(checkpoint.load_full(tmp_path / "a")["t"], whole)
    (tmp_path / "a" / "shard-1.safetensors").unlink()
    record_files(tmp_path / "a")
    with pytest.raises(CheckpointError, match="`t` is not whole; a file of the checkpoint is"):
        checkpoint.load_full(tmp_path / "a")


def record_files(folder: Path) -> None:
    from recmtl._files import sha256_of

    manifest = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    manifest["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in folder.iterdir()
        if file.name != "files.json"
    }
    (folder / "files.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_copies_elsewhere_stay_valid(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert checkpoint.verify(moved)["format"] == 1
