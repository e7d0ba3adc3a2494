"""metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from recmtl.errors import CheckpointError
from recmtl.training.reporting import JsonLinesLogger


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_counts_steps_that_were_made_and_writes_nan_as_null(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "metrics.jsonl")
    logger.log_metrics({"epoch": 1.0, "valid/ctr/auc": math.nan, "train/loss": 0.5}, step=99)
    expected = {"step": 100, "epoch": 1, "valid/ctr/auc": None, "train/loss": 0.5}
    assert lines(tmp_path / "metrics.jsonl") == [expected]


def test_a_restart_drops_what_it_will_write_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = JsonLinesLogger(file)
    for step in (9, 19, 29):
        if step == 29:
            written = logger.position()
        logger.log_metrics({"train/loss": 0.5}, step=step)
    with file.open("a") as half:
        half.write('{"step": 40, "tra')
    JsonLinesLogger(file, written=written).log_metrics({"train/loss": 0.25}, step=29)
    assert [(line["step"], line["train/loss"]) for line in lines(file)] == [
        (10, 0.5),
        (20, 0.5),
        (30, 0.25),
    ]


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: b"[" + text[1:]])
def test_lines_that_are_no_longer_there_are_named(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "metrics.jsonl"
    logger = JsonLinesLogger(file)
    logger.log_metrics({"train/loss": 0.5}, step=9)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: its first .* bytes are not those"):
        JsonLinesLogger(file, written=logger.position())


def test_without_a_checkpoint_all_lines_will_be_written_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff')
    JsonLinesLogger(tmp_path / "metrics.jsonl")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
