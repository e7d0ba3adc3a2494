"""Every kind of tower in every format: batches of 1, 7 and 4096, within 1e-5."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from recmtl.exporting.agreement import TOLERANCE, largest_difference
from recmtl.exporting.formats import FORMATS, ExportFormat, load_model, write_model
from recmtl.exporting.rows import TABLES, TablePrecision
from recmtl.towers import TOWERS as CONFIGS
from tests.exporting.models import TOWERS, eager, some_rows, tensors, world

GRAPHS = [name for name in FORMATS if name != "safetensors"]
"""The others; `safetensors` is read by our own net (see `test_net.py`, and `test_export.py`)."""


def test_no_tower_is_forgotten() -> None:
    assert {config().kind for config in CONFIGS} <= TOWERS.keys()


@pytest.mark.exports
@pytest.mark.parametrize("form", GRAPHS)
@pytest.mark.parametrize("kind", TOWERS)
def test_tower_in_format(kind: str, form: ExportFormat, tmp_path: Path) -> None:
    _require(form)
    made = world(kind)
    write_model(form, made.serving, tmp_path)
    model = load_model(form, tmp_path, "fp32")
    for count in (1, 7, 4096):
        found, expected = model(tensors(made, some_rows(count))), eager(made, some_rows(count))
        assert list(found) == list(made.tasks.names)
        for name, expected_B in expected.items():
            assert largest_difference(found[name], expected_B) <= TOLERANCE
    none = [{**row, "tags": [], "topics": [], "words": []} for row in some_rows(3)]
    assert largest_difference(model(tensors(made, none))["ctr"], eager(made, none)["ctr"]) <= 1e-5


@pytest.mark.exports
@pytest.mark.parametrize("form", GRAPHS)
@pytest.mark.parametrize("precision", TABLES[1:])
def test_tables_in_format(precision: TablePrecision, form: ExportFormat, tmp_path: Path) -> None:
    _require(form)
    made = world("mmoe", precision)
    write_model(form, made.serving, tmp_path)
    given = tensors(made, some_rows(7))
    with torch.no_grad():
        found, expected = load_model(form, tmp_path, precision)(given), made.serving(given)
    assert all(largest_difference(found[name], expected[name]) <= 1e-5 for name in expected)


def _require(form: ExportFormat) -> None:
    if form == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("needs the extra `export`")
