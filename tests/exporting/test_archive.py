"""An archive of torch is read only where nothing in it would be unpickled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from recmtl.errors import CheckpointError
from recmtl.exporting import torch_export
from recmtl.exporting.archive import require_no_pickle
from tests.exporting.models import some_rows, tensors, world


class _Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    torch_export.write(world("shared_bottom").serving, folder)
    return folder


def rewritten(exported: Path, folder: Path, changes: dict[str, bytes]) -> Path:
    """A copy whose entries of these names hold other bytes; unknown ones are added."""
    with zipfile.ZipFile(exported / "model.pt2") as old:
        contents = {name: old.read(name) for name in old.namelist()}
    root = next(iter(contents)).partition("/")[0]
    contents |= {f"{root}/{name}": content for name, content in changes.items()}
    with zipfile.ZipFile(folder / "model.pt2", "w") as new:
        for name, content in contents.items():
            new.writestr(name, content)
    return folder


def test_what_we_write_is_read(exported: Path) -> None:
    made = world("shared_bottom")
    given = tensors(made, some_rows(5))
    found, expected = torch_export.load(exported)(given), made.serving(given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_planted_pickle_is_not_executed(exported: Path, tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    bomb = {"data/sample_inputs/model.pt": pickle.dumps(_Bomb(sign))}
    folder = rewritten(exported, tmp_path, bomb)
    with pytest.raises(CheckpointError, match=r"model\.pt`, which recmtl does not write"):
        torch_export.load(folder)
    assert not sign.exists()
    with pytest.raises(RuntimeError, match="error when deserializing"):
        torch.export.load(folder / "model.pt2")
    assert sign.exists()  # torch itself would have run it


def test_a_pickle_that_torch_alone_would_see_is_not_executed(
    exported: Path, tmp_path: Path
) -> None:
    """Two archives in one file: zipfile reads the second one's entries, torch the first one's."""
    sign = tmp_path / "executed"
    bomb = {"data/sample_inputs/model.pt": pickle.dumps(_Bomb(sign))}
    bad = bytearray((rewritten(exported, tmp_path, bomb) / "model.pt2").read_bytes())
    good = bytearray((rewritten(exported, tmp_path, {}) / "model.pt2").read_bytes())
    (end_bad, at_bad), (end_good, at_good) = _directory(bad), _directory(good)
    entry = at_good
    while entry < end_good:  # zipfile counts from where it thinks that the archive begins
        (offset,) = struct.unpack_from("<I", good, entry + 42)
        struct.pack_into("<I", good, entry + 42, offset + at_bad - at_good)
        entry += 46 + sum(struct.unpack_from("<3H", good, entry + 28))
    struct.pack_into("<I", good, end_good + 16, at_bad)
    (tmp_path / "model.pt2").write_bytes(bad[:end_bad] + good)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not archive.read(next(n for n in archive.namelist() if "sample_inputs" in n))
    with pytest.raises(CheckpointError, match=r"model\.pt`, which recmtl does not write"):
        torch_export.load(tmp_path)
    assert not sign.exists()
    with pytest.raises(RuntimeError, match="error when deserializing"):
        torch.export.load(tmp_path / "model.pt2")
    assert sign.exists()  # torch itself would have run it


def _directory(archive: bytes | bytearray) -> tuple[int, int]:
    """Where an archive's list of entries ends, and where it begins."""
    end = archive.rindex(b"PK\5\6")
    return end, struct.unpack_from("<I", archive, end + 16)[0]


@pytest.mark.parametrize(
    "name", ["data/weights/model.pt", "data/constants/custom_obj_0", "models/other.json", "extra/x"]
)
def test_foreign_entries_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    folder = rewritten(exported, tmp_path, {name: b"{}"})
    with pytest.raises(CheckpointError, match=f"{name}`, which recmtl does not write"):
        require_no_pickle(folder / "model.pt2", kind="torch-export")


def test_weights_that_say_they_are_pickles_are_refused(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        name = next(n for n in archive.namelist() if n.endswith("model_weights_config.json"))
        config = json.loads(archive.read(name))
    next(iter(config["config"].values()))["use_pickle"] = True
    changes = {"data/weights/model_weights_config.json": json.dumps(config).encode()}
    folder = rewritten(exported, tmp_path, changes)
    with pytest.raises(CheckpointError, match="weights_config"):
        torch_export.load(folder)


def test_an_entry_outside_the_archives_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copyfile(exported / "model.pt2", tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr("version", b"8.2")
    with pytest.raises(CheckpointError, match=r"is not an archive of torch .*: version"):
        torch_export.load(tmp_path)


def test_a_compiled_package_may_hold_no_graph(exported: Path) -> None:
    with pytest.raises(CheckpointError, match="which recmtl does not write"):
        require_no_pickle(exported / "model.pt2", kind="aoti")


def test_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(pickle.dumps(_Bomb(tmp_path / "executed")))
    with pytest.raises(CheckpointError, match="is not an archive of torch"):
        torch_export.load(tmp_path)
    assert not (tmp_path / "executed").exists()
