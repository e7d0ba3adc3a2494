"""Findings: order, exit code, and errors taken apart."""

from __future__ import annotations

import pytest

from recmtl.doctor.findings import Finding, by_severity, exit_code, from_error, raise_errors
from recmtl.errors import DataError, MissingExtraError, SpecError

NOTE = Finding("info", "a", "one.")
WARNING = Finding("warning", "b", "two.", "Do it.")
BAD_DATA = Finding("error", "c", "three.", "Mend it.", exit_code=3)
BAD_SPEC = Finding("error", "d", "four.", exit_code=2)


def test_errors_come_first_and_keep_their_order() -> None:
    assert by_severity([NOTE, WARNING, BAD_DATA, BAD_SPEC]) == [BAD_DATA, BAD_SPEC, WARNING, NOTE]


def test_the_first_error_decides_the_exit_code() -> None:
    assert exit_code([NOTE, WARNING]) == 0
    assert exit_code([NOTE, BAD_DATA, BAD_SPEC]) == 3
    assert exit_code([BAD_SPEC, BAD_DATA]) == 2


def test_a_finding_reads_as_a_sentence() -> None:
    assert str(WARNING) == "b: two. Do it."
    assert str(NOTE) == "a: one."


def test_every_problem_of_an_error_is_a_finding() -> None:
    found = from_error(DataError.all_of(["a.parquet: column `x` is missing.", "nothing fits."]))
    assert [(f.where, f.what) for f in found] == [
        ("a.parquet", "column `x` is missing."),
        ("data", "nothing fits."),
    ]
    assert {(f.severity, f.exit_code) for f in found} == {("error", 3)}
    (spec,) = from_error(SpecError("shop.yaml:3: `dims` is unknown."))
    assert (spec.where, spec.exit_code) == ("shop.yaml:3", 2)


def test_a_colon_within_a_sentence_is_no_place() -> None:
    text = "Training needs torchrec, not installed here; found torch 2.13. Run: pip install x"
    (found,) = from_error(MissingExtraError(text))
    assert (found.where, found.what, found.exit_code) == ("versions", text, 4)


def test_errors_of_one_kind_are_raised_together() -> None:
    raise_errors([NOTE, WARNING])
    with pytest.raises(DataError, match=r"^c: three\. Mend it\.\nc: three\. Mend it\.$"):
        raise_errors([NOTE, BAD_DATA, BAD_SPEC, BAD_DATA])
    with pytest.raises(SpecError, match=r"^d: four\.$"):
        raise_errors([BAD_SPEC, BAD_DATA])
