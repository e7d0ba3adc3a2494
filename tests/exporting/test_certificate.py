"""A certificate knows every byte of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recmtl.errors import CheckpointError
from recmtl.exporting.certificate import (
    CERTIFICATE,
    machine,
    read_certificate,
    require_machine,
    write_certificate,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "rows.parquet").write_bytes(b"rows")
    (tmp_path / "model.onnx").write_bytes(b"model")
    write_certificate(tmp_path, {"tolerance": 1e-5, "cost": None})
    return tmp_path


def test_it_is_read_as_it_was_written(folder: Path) -> None:
    found = read_certificate(folder)
    assert (found["tolerance"], found["cost"]) == (1e-5, None)
    assert list(found["files"]) == ["golden/rows.parquet", "model.onnx"]


@pytest.mark.parametrize("name", ["golden/rows.parquet", "model.onnx", CERTIFICATE])
def test_one_other_byte_is_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(CheckpointError, match=name.rpartition("/")[2]):
            read_certificate(folder)
    (folder / name).write_bytes(whole)
    read_certificate(folder)


def test_missing_and_foreign_files_are_named_together(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "golden" / ".hidden").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        read_certificate(folder)
    assert "model.onnx: is missing." in str(caught.value)
    assert ".hidden: is not one of the export's files." in str(caught.value)


def test_a_link_is_no_file_of_an_export(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path.with_name("elsewhere")
    (folder / "model.onnx").rename(copy)
    (folder / "model.onnx").symlink_to(copy)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        read_certificate(folder)


def test_another_folder_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no export \(`certificate.json` is missing\)"):
        read_certificate(tmp_path)


def test_code_for_a_larger_processor_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = {**machine(), "instructions": "AVX512"}
    for here, fits in (("AVX512", True), ("AVX2", False), ("DEFAULT", False), ("SVE256", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda here=here: here)
        if fits:
            require_machine(tmp_path, made)
        else:
            with pytest.raises(CheckpointError, match=f"was compiled for .*AVX512.*{here}"):
                require_machine(tmp_path, made)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(CheckpointError, match="sparc"):
        require_machine(tmp_path, {**made, "processor": "sparc"})
