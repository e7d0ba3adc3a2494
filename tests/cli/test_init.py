"""`recmtl init` prints or writes a spec that `recmtl train` takes as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recmtl.cli import init
from recmtl.config import load_spec
from recmtl.errors import SpecError

QUICK = ["tower.num_experts=2", "tower.expert_widths=[8]", "train.batch_size=512"]


def test_the_written_spec_trains(funnel: Path, tmp_path: Path) -> None:
    from recmtl import api

    spec = tmp_path / "specs" / "guess.yaml"
    done = CliRunner().invoke(
        init.command, ["--from", str(funnel / "train.parquet"), "--out", str(spec)]
    )
    assert done.exit_code == 0, done.output
    assert f"recmtl doctor {spec}" in done.output
    assert [task.name for task in load_spec(spec).tasks][:3] == ["ctr", "cvr", "ctcvr"]
    result = api.train(spec, out=tmp_path / "run", overrides=QUICK)
    assert result.best["valid/ctr/n"]


def test_json_holds_the_text(funnel: Path, tmp_path: Path) -> None:
    source = ["--from", str(funnel / "train.parquet")]
    plain = CliRunner().invoke(init.command, source)
    printed = CliRunner().invoke(init.command, [*source, "--json"])
    assert json.loads(printed.output) == {"spec": plain.output}


def test_nothing_is_overwritten(funnel: Path, tmp_path: Path) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text("mine")
    source = ["--from", str(funnel / "train.parquet"), "--out", str(spec)]
    with pytest.raises(SpecError, match=r"mine\.yaml: exists\. Choose another file"):
        CliRunner().invoke(init.command, source, catch_exceptions=False)
    assert spec.read_text() == "mine"
