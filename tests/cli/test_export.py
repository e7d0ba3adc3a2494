"""`recmtl export` and `recmtl verify`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recmtl.cli import main


def ending(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_a_run_is_exported_and_verified(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ("export", run, "--format", "safetensors", "--out", out, "--tables", "int8")
    assert ending(*asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["tables"], found["out"]) == ("safetensors", "int8", str(out))
    assert set(found["max_abs_difference"]) == set(found["cost"]["golden"])
    assert ending("verify", out, "--json") == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["ok"], verified["rows"], verified["files"]) == (True, 64, found["files"])
    assert ending("verify", out) == 0
    assert "is as it was exported (safetensors, tables int8)" in capsys.readouterr().out
    assert ending(*asked) == 2
    assert "exists already" in capsys.readouterr().err
    asked = ("export", run, "--format", "safetensors", "--out", tmp_path / "b", "--tables", "int4")
    assert ending(*asked) == 0
    printed = capsys.readouterr().out
    assert "int4 tables change a prediction by at most: ctr " in printed
    for task, about in found["cost"]["validation"]["tasks"].items():
        assert f"{task}, {about['n']:,} validation rows: auc " in printed
    asked = ("export", run, "--format", "safetensors", "--out", tmp_path / "c", "--uncalibrated")
    assert ending(*asked, "--data", tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err
    assert ending(*asked) == 0
    (out / "schema.json").write_text("{}")
    assert ending("verify", out) == 5
    assert "schema.json: its sha256 is not the recorded one" in capsys.readouterr().err


def test_what_is_no_run_or_no_format_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending("export", run, "--format", "pickle", "--out", tmp_path / "out") == 2
    assert ending("export", tmp_path, "--format", "onnx", "--out", tmp_path / "out") == 5
    assert "is not a run folder" in capsys.readouterr().err
    assert ending("verify", run) == 5
    assert "is no export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
