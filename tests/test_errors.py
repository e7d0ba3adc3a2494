"""Errors: one family, one exit code each."""

from __future__ import annotations

import pickle

import pytest

from recmtl import errors
from recmtl.errors import RecMTLError


@pytest.mark.parametrize(
    ("name", "code"),
    [("SpecError", 2), ("DataError", 3), ("MissingExtraError", 4), ("CheckpointError", 5)],
)
def test_each_kind_has_its_exit_code(name: str, code: int) -> None:
    kind = getattr(errors, name)
    error = kind.all_of(["a.yaml:1: one.", "a.yaml:2: two."])
    assert type(error) is kind
    assert isinstance(error, RecMTLError)
    assert isinstance(error, ValueError)
    assert error.exit_code == code
    assert str(error) == "a.yaml:1: one.\na.yaml:2: two."
    copy = pickle.loads(pickle.dumps(error))  # as it passes between processes
    assert (type(copy), str(copy)) == (kind, str(error))


def test_the_base_has_the_code_of_anything_else() -> None:
    assert RecMTLError.exit_code == 1
