"""Whole tensors: mapped, put together from shards, or an error of the file."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recmtl import checkpoint
from recmtl._files import sha256_of
from recmtl.errors import CheckpointError


def tensor_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


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


def test_garbage_with_the_right_size_is_an_error_of_the_file(folder: Path) -> None:
    file = tensor_file(folder)
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: cannot be read"):
        checkpoint.load_full(folder)


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
    manifest = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    manifest["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in folder.iterdir()
        if file.name != "files.json"
    }
    (folder / "files.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.slow
def test_reading_needs_no_distributed_checkpoints(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from recmtl import checkpoint
assert len(checkpoint.load_full(Path({str(folder)!r}))) == 5
assert "torch.distributed.checkpoint" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
