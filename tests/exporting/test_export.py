"""Runs exported, loaded, verified and tampered with."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import recmtl
from recmtl import api
from recmtl._files import sha256_of
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.exporting.formats import FORMATS, ExportFormat
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.tasks import Calibrator
from tests.runs import copied, settle


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that no test changes."""
    out = tmp_path_factory.mktemp("export") / "out"
    api.export(run, out, format="safetensors")
    return out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def reseal(folder: Path, **changes: Any) -> None:
    """Let the certificate know the files as they are, as who made it would."""
    about = read_sealed(folder / "certificate.json") | changes
    about["files"] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name != "certificate.json"
    }
    (folder / "certificate.json").write_text(sealed(about), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["run", "home_run", "dtrn_run"])
def test_exports_say_what_runs_say_pitfall_T45(
    name: str, form: ExportFormat, funnel: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if form == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("needs the extra `export`")
    trained, out = request.getfixturevalue(name), tmp_path / "out"
    result = api.export(trained, out, format=form)
    assert set(result.max_abs_difference) == {"ctr", "cvr", "ctcvr"}
    assert max(result.max_abs_difference.values()) <= 1e-5
    assert api.verify(out)["max_abs_difference"].keys() == {"ctr", "cvr", "ctcvr"}
    ours, theirs = BatchScorer(trained, keep=["user_id"]), api.load_export(out, keep=["user_id"])
    rows = pl.read_parquet(funnel / "train.parquet").head(4096)
    for count in (1, 7, 4096):
        expected, found = ours(rows.head(count)), theirs(rows.head(count))
        assert found.columns == ["user_id", "probs_ctr", "probs_cvr", "probs_ctcvr"]
        assert found["user_id"].equals(expected["user_id"])
        for column in found.columns[1:]:
            assert found[column].dtype == pl.Float32
            assert float((found[column] - expected[column]).abs().max()) <= 1e-5  # type: ignore[arg-type]


def test_the_certificate_says_what_it_is_of(exported: Path, run: Path) -> None:
    found = json.loads((exported / "certificate.json").read_text())
    assert found["export"] == {"format": "safetensors", "tables": "fp32"}
    assert found["model"] == BatchScorer(run).fingerprint
    assert found["schema"] == sha256_of(exported / "schema.json")
    assert found["vocabularies"] == sha256_of(run / "encoders" / "files.json")
    assert found["golden"] == {"rows": 64, "source": "validation rows"}
    assert found["batches"] == [1, 7, 64, 4096]
    assert found["versions"]["torch"] == torch.__version__
    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert set(found["files"]) == files - {"certificate.json"}


def test_golden_rows_are_of_the_log(exported: Path, funnel: Path) -> None:
    golden = pl.read_parquet(exported / "golden" / "rows.parquet")
    log = pl.read_parquet(funnel / "valid.parquet").select(golden.columns)
    rows = {json.dumps(row, default=str) for row in log.iter_rows()}
    assert golden.height == 64
    assert all(json.dumps(row, default=str) in rows for row in golden.iter_rows())


def test_tensors_are_read_without_us(exported: Path, run: Path) -> None:
    """The whole of a first look-up by hand: safetensors and JSON."""
    schema = json.loads((exported / "schema.json").read_text())
    tensors = load_file(exported / "model.safetensors")
    sizes = {each["name"]: each["below"] for each in schema["inputs"] if each["kind"] == "id"}
    assert tensors["tables/user_id/weight"].shape[0] == sizes["user_id"]
    inputs = load_file(exported / "golden" / "inputs.safetensors")
    found = tensors["tables/user_id/weight"][inputs["user_id"]]
    lookup: Any = BatchScorer(run).net.lookup
    group, first_row = lookup.place("user_id")
    assert torch.equal(found, lookup.get_buffer(group)[inputs["user_id"] + first_row])


def test_without_its_log_rows_are_drawn(run: Path, funnel: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(funnel, tmp_path / "funnel"))
    alone = copied(run, tmp_path)
    versions = read_sealed(alone / "versions.json")
    for start in versions["starts"]:
        start["data"] = str(moved / "gone")
    (alone / "versions.json").write_text(sealed(versions), encoding="utf-8")
    settle(alone)
    said: list[str] = []
    result = api.export(
        alone, tmp_path / "out", format="safetensors", tables="int8", notify=said.append
    )
    assert "`--data`" in said[0]
    assert "drawn from the vocabularies" in said[0]
    assert result.cost["validation"] is None
    found = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert found["golden"] == {"rows": 64, "source": "drawn from the vocabularies"}
    api.verify(tmp_path / "out")
    again = tmp_path / "again"
    result = api.export(alone, again, format="safetensors", tables="int8", data=moved)
    assert result.cost["validation"]["rows"] == pl.read_parquet(funnel / "valid.parquet").height
    golden = read_sealed(again / "certificate.json")["golden"]
    assert golden == {"rows": 64, "source": "validation rows"}
    shutil.copyfile(moved / "test.parquet", moved / "valid.parquet")
    with pytest.raises(DataError, match="holds other rows than those"):
        api.export(alone, tmp_path / "third", format="safetensors", data=moved)
    assert not (tmp_path / "third").exists()


def test_calibrators_travel(run: Path, funnel: Path, tmp_path: Path) -> None:
    calibrated = copied(run, tmp_path)
    bent = Calibrator(at=(-2.0, 0.0), values=(-3.0, 0.0), below=1.0, above=2.0)
    Run(calibrated).write_calibration({"tasks": {"ctr": {"calibrator": bent._asdict()}}})
    api.export(calibrated, tmp_path / "out", format="safetensors")
    rows = pl.read_parquet(funnel / "test.parquet")
    found, plain = api.load_export(tmp_path / "out")(rows), BatchScorer(run)(rows)
    expected = BatchScorer(calibrated)(rows)
    for column in ("probs_ctr", "probs_ctcvr"):
        assert float((found[column] - expected[column]).abs().max()) <= 1e-6  # type: ignore[arg-type]
        assert float((found[column] - plain[column]).abs().max()) > 1e-3  # type: ignore[arg-type]
    assert read_sealed(tmp_path / "out" / "certificate.json")["calibrated"] == ["ctr"]
    api.export(calibrated, tmp_path / "plain", format="safetensors", calibrated=False)
    found = api.load_export(tmp_path / "plain")(rows)
    for column in ("probs_ctr", "probs_cvr", "probs_ctcvr"):
        assert float((found[column] - plain[column]).abs().max()) <= 1e-6  # type: ignore[arg-type]
    assert read_sealed(tmp_path / "plain" / "certificate.json")["calibrated"] == []
    api.verify(tmp_path / "plain")


@pytest.mark.parametrize("tables", ["fp16", "int8", "int4"])
def test_what_smaller_tables_cost_is_measured(
    tables: Any, run: Path, funnel: Path, tmp_path: Path
) -> None:
    result = api.export(run, tmp_path / "out", format="safetensors", tables=tables)
    assert max(result.max_abs_difference.values()) <= 1e-5
    assert all(0 < change < 0.1 for change in result.cost["golden"].values())
    rows = pl.read_parquet(funnel / "valid.parquet")
    metrics = api.evaluate(run, rows)["tasks"]
    found = result.cost["validation"]
    assert found["rows"] == rows.height
    scores = api.load_export(tmp_path / "out")(rows)
    clicks = rows["click"].to_numpy()
    for task, both in found["tasks"].items():
        assert both["n"] == metrics[task]["n"]
        for metric in ("auc", "logloss"):
            assert both[metric]["before"] == pytest.approx(metrics[task][metric], abs=1e-4)
    p = scores["probs_ctr"].to_numpy().astype(np.float64)
    logloss = -np.where(clicks == 1, np.log(p), np.log1p(-p)).mean()
    assert found["tasks"]["ctr"]["logloss"]["after"] == pytest.approx(logloss, abs=1e-5)
    about = json.loads((tmp_path / "out" / "certificate.json").read_text())["table_bytes"]
    assert all(both["after"] < both["before"] for both in about.values())


def test_every_byte_counts(copy: Path) -> None:
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert len(files) > 8
    for file in files:
        whole = file.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=file.name):
            api.verify(copy)
        with pytest.raises(CheckpointError, match=file.name):
            api.load_export(copy)
        file.write_bytes(whole)
    api.verify(copy)


def test_a_planted_pickle_is_not_executed(copy: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(copy / "executed"),)

    (copy / "model.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"model\.pt: is not one of the export's files"):
        api.verify(copy)
    shutil.copyfile(copy / "model.pt", copy / "model.safetensors")
    (copy / "model.pt").unlink()
    reseal(copy)
    with pytest.raises(CheckpointError, match="cannot be read"):
        api.verify(copy)
    assert not (copy / "executed").exists()


def test_another_model_under_the_same_name_is_found(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, file)
    reseal(copy)
    with pytest.raises(CheckpointError, match=r"task `ctr` is .* from what was said"):
        api.verify(copy)


def test_other_encoders_are_found(copy: Path) -> None:
    file = copy / "golden" / "rows.parquet"
    rows = pl.read_parquet(file)
    rows.with_columns(pl.col("user_id").shuffle(seed=1)).write_parquet(file)
    reseal(copy)
    with pytest.raises(CheckpointError, match="encoded to another `user_id`"):
        api.verify(copy)


def test_a_full_folder_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists already"):
        api.export(run, tmp_path, format="safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_the_working_folder_is_not_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path):
        with pytest.raises(SpecError, match="is the working folder"):
            api.export(run, out, format="safetensors")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"format": "onx"}, "Did you mean `onnx`"), ({"tables": "int2"}, "must be one of `fp32`")],
)
def test_unknown_choices_are_refused(changed: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(SpecError, match=message):
        api.export(run, "nowhere", **{"format": "safetensors", **changed})


def test_frames_of_all_kinds_are_answered_in_kind(exported: Path, funnel: Path) -> None:
    scorer = recmtl.load_export(exported, keep=["item_id"])
    rows = pl.read_parquet(funnel / "test.parquet").head(9)
    expected = scorer(rows)
    assert pl.from_arrow(scorer(rows.to_arrow())).equals(expected)  # type: ignore[union-attr]
    assert pl.from_pandas(scorer(rows.to_pandas())).equals(expected)
    assert scorer(rows.head(0)).schema == expected.schema
    assert pickle.loads(pickle.dumps(scorer))(rows).equals(expected)


def test_a_process_reads_an_export_once(copy: Path) -> None:
    pickled = pickle.dumps(recmtl.load_export(copy, keep=["item_id"]))
    scorer = pickle.loads(pickled)
    assert pickle.loads(pickled) is scorer
    assert scorer.keep == ("item_id",)
    assert pickle.loads(pickle.dumps(recmtl.load_export(copy))) is not scorer
    reseal(copy, model="another")
    assert pickle.loads(pickled).certificate["model"] == "another"
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match="is no export"):
        pickle.loads(pickled)


def test_missing_columns_are_named(exported: Path, funnel: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet").head(9)
    with pytest.raises(DataError, match=r"`user_id` \(feature\) is missing"):
        api.load_export(exported)(rows.drop("user_id"))
    with pytest.raises(DataError, match="`no` \\(to be kept\\) is missing"):
        api.load_export(exported, keep=["no"])(rows)
    with pytest.raises(SpecError, match="`probs_ctr` too"):
        api.load_export(exported, keep="probs_ctr")(rows)


def test_encoded_tensors_are_scored(exported: Path, funnel: Path) -> None:
    scorer = api.load_export(exported)
    rows = pl.read_parquet(funnel / "test.parquet").head(9)
    found = scorer.predict(scorer.encode(rows))
    assert np.array_equal(found["ctr"].numpy(), scorer(rows)["probs_ctr"].to_numpy())
