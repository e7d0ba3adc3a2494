"""What was changed, truncated, is missing or foreign is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from recmtl import checkpoint
from recmtl.errors import CheckpointError

STATE = {"epoch": 2, "position": [3, None], "note": "ä"}


def test_state_is_read_back(folder: Path) -> None:
    assert checkpoint.read_state(folder) == STATE


def test_fingerprint_stays_with_the_folder(
    folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    first = checkpoint.fingerprint(folder)
    assert checkpoint.fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == first
    checkpoint.save(folder, tensors | {"optimizer/tower.last/step": torch.tensor(6.0)}, STATE)
    assert checkpoint.fingerprint(folder) != first


def test_equal_tensors_are_equal_files(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    again = folder.with_name("step-00000008")
    for _ in range(5):  # the library that writes them has a random order of its own
        checkpoint.save(again, tensors, STATE)
        assert checkpoint.fingerprint(again) == checkpoint.fingerprint(folder)
    assert tensor_file(again).read_bytes() == tensor_file(folder).read_bytes()
    loaded = checkpoint.load_full(again)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())


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


def test_a_file_that_is_not_listed_is_named(folder: Path) -> None:
    planted = folder / "planted.safetensors"
    planted.write_bytes(tensor_file(folder).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(planted))}: is not listed"):
        checkpoint.verify(folder)


def test_changed_state_is_named(folder: Path) -> None:
    (folder / "state.json").write_text(
        (folder / "state.json").read_text(encoding="utf-8").replace("2", "3"), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"state\.json: its sha256"):
        checkpoint.read_state(folder)


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
        (
            '{"format": 1, "files": {"../a": {"bytes": 1, "sha256": ""}}, "tensors": {}}',
            r"files\.json: '\.\./a' is no file beside it",
        ),
        (
            '{"format": 1, "files": {"a.safetensors": 3}, "tensors": {}}',
            r"files\.json: 'a\.safetensors' is no file beside it with `bytes` and `sha256`",
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


def test_copies_elsewhere_stay_valid(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert checkpoint.verify(moved)["format"] == 1


def tensor_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file
