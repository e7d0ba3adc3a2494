"""What is particular about ONNX: one name for each thing in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl.exporting import onnx_model
from recmtl.exporting.agreement import TOLERANCE, largest_difference
from recmtl.exporting.inputs import tensors_of
from recmtl.spec import Spec
from tests.embeddings.world import SPEC, to_batch
from tests.exporting.models import eager, some_rows, world

pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.mark.slow
def test_a_feature_and_tasks_may_have_the_names_of_operations(tmp_path: Path) -> None:
    text = SPEC.model_dump_json().replace('"price"', '"embedding"').replace('"cvr"', '"sigmoid"')
    spec = Spec.model_validate_json(text)
    made, rows = world("shared_bottom", spec=spec), some_rows(7)
    onnx_model.write(made.serving, tmp_path)
    given = tensors_of(to_batch(rows), spec, made.serving.inputs)
    found, expected = onnx_model.load(tmp_path)(given), eager(made, rows)
    assert {"embedding"} < given.keys()
    assert {"sigmoid"} < found.keys() == expected.keys()
    for name, expected_B in expected.items():
        assert largest_difference(found[name], expected_B) <= TOLERANCE
