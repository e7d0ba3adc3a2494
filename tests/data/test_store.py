from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from recmtl._files import sha256_of
from recmtl.data import Encoders
from recmtl.errors import CheckpointError
from tests.data.strategies import frames, make_spec
from tests.data.test_encode import SPEC, assert_equal, good
from tests.data.worlds import log_of


@settings(max_examples=10)
@given(train=frames(), frame=frames())
def test_loaded_encoders_encode_the_same(
    tmp_path_factory: pytest.TempPathFactory, train: pl.DataFrame, frame: pl.DataFrame
) -> None:
    folder = tmp_path_factory.mktemp("run") / "encoders"
    encoders = Encoders.fit(SPEC, train=log_of(train))
    encoders.save(str(folder))  # paths are strings as well
    loaded = Encoders.load(str(folder))
    assert_equal(loaded.encode(frame, labels=True), encoders.encode(frame, labels=True))
    for name in ("spec", "tables", "single", "bags", "labels", "base_rates", "label_scales"):
        assert getattr(loaded, name) == getattr(encoders, name)
    assert loaded.populations == encoders.populations
    for table in encoders.tables:
        assert np.array_equal(loaded.counts(table), encoders.counts(table))
    assert loaded.num_rows == encoders.num_rows
    assert loaded.row_bytes == encoders.row_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Encoders.fit(SPEC, train=log_of(good())).save(tmp_path / "encoders")
    return tmp_path / "encoders"


def test_nothing_but_json_and_parquet(folder: Path) -> None:
    assert sorted(f.name for f in folder.iterdir()) == [
        *(f"counts-{n:04d}.parquet" for n in range(4)),
        "encoders.json",
        "files.json",
        "rare-0000.parquet",
        *(f"vocab-{n:04d}.parquet" for n in range(3)),
    ]
    assert pl.read_parquet(folder / "vocab-0001.parquet").to_dict(as_series=False) == {
        "id": ["a", "b"],
        "count": [1, 1],
    }


def test_the_same_data_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    Encoders.fit(SPEC, train=log_of(good())).save(tmp_path / "again")
    assert (tmp_path / "again" / "files.json").read_text() == (folder / "files.json").read_text()


def test_one_changed_byte_is_found_in_every_file(folder: Path) -> None:
    for path in folder.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
        with pytest.raises(CheckpointError, match=r"corrupt|missing") as caught:
            Encoders.load(folder)
        if path.name != "files.json":
            assert str(caught.value).startswith(f"{path}: the file is corrupt")
        path.write_bytes(whole)
    Encoders.load(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "vocab-0001.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"vocab-0001\.parquet: the file is missing"):
        Encoders.load(folder)
    with pytest.raises(
        CheckpointError, match=r"files\.json: the file is missing: there are no enc"
    ):
        Encoders.load(folder / "nowhere")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "encoders.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sums = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps({**sums, path.name: sha256_of(path)}))


def test_another_format_is_refused(folder: Path) -> None:
    edit(folder, format=99)
    with pytest.raises(CheckpointError, match="this is format 99, expected 2"):
        Encoders.load(folder)


def test_foreign_content_is_refused(folder: Path) -> None:
    edit(folder, spec={"name": "x"})
    with pytest.raises(CheckpointError, match="the content is not that of encoders"):
        Encoders.load(folder)
    (folder / "files.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        Encoders.load(folder)


def test_table_names_are_no_file_names(tmp_path: Path) -> None:
    name = "../etc/päss/wd"
    spec = make_spec(
        [{"name": name, "type": "sparse", "vocab": {}, "dim": 4}], [{"name": "c", "label": "c"}]
    )
    encoders = Encoders.fit(spec, train=log_of(pl.DataFrame({name: [1, 2], "c": [0, 1]})))
    encoders.save(tmp_path / "encoders")
    assert Encoders.load(tmp_path / "encoders").tables == {name: 3}
    assert [f.name for f in tmp_path.iterdir()] == ["encoders"]


def rewritten(folder: Path, **changes: object) -> None:
    """Change parts of encoders.json, with a checksum that fits."""
    path = folder / "encoders.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | changes))
    sums = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps(sums | {path.name: sha256_of(path)}))


@pytest.mark.parametrize("name", ["../vocab-0000.parquet", "/etc/passwd", "vocab-0000.parquet/.."])
def test_a_vocabulary_lies_beside_the_list_that_names_it(name: str, folder: Path) -> None:
    tables = json.loads((folder / "encoders.json").read_text())["tables"]
    rewritten(folder, tables=[{**tables[0], "file": name}, *tables[1:]])
    with pytest.raises(CheckpointError, match=r"the content is not that of encoders \(tables\.0"):
        Encoders.load(folder)


def test_a_checksum_of_a_file_elsewhere_is_not_asked_for(folder: Path) -> None:
    sums = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps(sums | {"../../a": "0"}))
    with pytest.raises(CheckpointError, match=r"'\.\./\.\./a' is no file beside it"):
        Encoders.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": {}}, "scales: not those of its spec"),
        ({"single": ["user"]}, "single and bags: not those of its spec"),
        ({"num_rows": -1}, "num_rows: Input should be greater than or equal to 0"),
        ({"vector_scales": {}}, "vector_scales: not those of its spec"),
        (
            {"vector_scales": {"text": {"shift": [0.0], "scale": [1.0]}}},
            "vector_scales: not those of its spec",
        ),
        (
            {"vector_scales": {"text": {"shift": [0.0, 0.0], "scale": [1.0, 0.0]}}},
            r"vector_scales\.text\.scale\.1: Input should be greater than 0",
        ),
        ({"mean_lengths": {"tags": "many"}}, "mean_lengths.tags: Input should be a valid number"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    changes: dict[str, object], message: str, folder: Path
) -> None:
    rewritten(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        Encoders.load(folder)


def test_counts_that_are_not_the_tables_are_refused_where_they_are_asked_for(folder: Path) -> None:
    tables = json.loads((folder / "encoders.json").read_text())["tables"]
    hashed = next(table for table in tables if table["kind"] == "hash")
    path = folder / hashed["counts"]
    pl.DataFrame({"count": pl.Series([1], dtype=pl.UInt32)}).write_parquet(path)
    sums = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps(sums | {path.name: sha256_of(path)}))
    with pytest.raises(CheckpointError, match=r"counts-\d{4}\.parquet: its counts are not those"):
        Encoders.load(folder).counts(hashed["name"])
