from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.errors import SpecError
from recmtl.spec import DataSpec, Spec, StrictModel, load_yaml, parse_yaml
from recmtl.spec._yaml import read_plain
from tests.strategies import awkward_words


class Numbers(StrictModel):
    values: tuple[float, ...]
    count: int = 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("1_000_000", 1000000),
        ("1_000.5", 1000.5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("0", 0),
        ("0.0", 0.0),
        ("-0.0", -0.0),
        ("1.5e+300", 1.5e300),
    ],
)
def test_numbers(written: str, read: float) -> None:
    assert parse_yaml(Numbers, f"values: [{written}]").values == (read,)
    assert type(read_plain(written)) is type(read)


@pytest.mark.parametrize("written", ["y", "n", "nO", "1__0", "1_", "e5", ".", "1.2.3", "NaN"])
def test_words_that_are_words(written: str) -> None:
    assert parse_yaml(DataSpec, f"train: {written}").train == written


@pytest.mark.parametrize("written", ["true", "True", "TRUE", "false", "False", "FALSE"])
def test_booleans(written: str) -> None:
    assert read_plain(written) is (written.lower() == "true")


@pytest.mark.parametrize("written", ["null", "Null", "NULL", "~", ""])
def test_nulls(written: str) -> None:
    assert parse_yaml(DataSpec, f"train: a\nvalid: {written}").valid is None


@given(awkward_words())
def test_quotes_make_a_string_of_anything(word: str) -> None:
    if word.isprintable():
        single = word.replace("'", "''")
        assert parse_yaml(DataSpec, f"train: '{single}'").train == word


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(SpecError):
        assert parse_yaml(DataSpec, text).train


@given(st.text("abn:,-[]{}?&*!#'\" \n0127_.", max_size=60))
def test_any_text_of_yaml_signs_is_read_or_refused(text: str) -> None:
    with suppress(SpecError):
        assert parse_yaml(DataSpec, f"train: a\nvalid:{text}", overrides=[f"keep={text}"]).train


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "# words\n", "---\n", "%YAML 1.1\n---\n"])
def test_line_ends_and_starts(line_end: str, start: str) -> None:
    text = (start + "train: a\nkeep:\n  - b\n").replace("\n", line_end)
    assert parse_yaml(DataSpec, text) == DataSpec(train="a", keep=("b",))


def test_the_line_is_that_of_the_key() -> None:
    text = "train: a\nvalid:\n  fraction: 0.1\n  # words\n\n  byy:\n    - u\n"
    with pytest.raises(SpecError, match=r"x\.yaml:6: valid: unknown key `byy`\."):
        parse_yaml(DataSpec, text, source="x.yaml")


def test_the_line_of_a_missing_key_is_that_of_its_section() -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:3: valid: missing key `by`\."):
        parse_yaml(DataSpec, "train: a\n\nvalid:\n  fraction: 0.1\n", source="x.yaml")


def test_a_character_that_yaml_forbids_is_found_in_its_line() -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:3: character U\+0000 is not allowed in YAML\."):
        parse_yaml(DataSpec, "train: a\n\nvalid: \x00\n", source="x.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"x\.yaml:1: `a` has the anchor `&a`, and anchors are not read\."),
        ("train: " + "[" * 100_000, r"x\.yaml:1: values are nested deeper than 20 levels\."),
        ("train: " + "{a: " * 100_000, r"x\.yaml:1: values are nested deeper than 20 levels\."),
        ("? [" * 10_000, r"x\.yaml:1: values are nested deeper than 20 levels\."),
        ("- " * 100_000, r"x\.yaml:1: values are nested deeper than 20 levels\."),
        ("train: a\n" * 200_000, r"x\.yaml: the text has 1,800,000 characters, .* 1,000,000\."),
        ("train: " + "9" * 500_000, r"x\.yaml:1: `train` is `9+\.\.\.`, which is too large"),
        ("train: " + "9" * 300, r"x\.yaml:1: `train` must be a string, got 9+\.\.\.\.$"),
        ("train: a\nmemory: " + "9" * 50_000 + "GB", r"x\.yaml:2: `memory` must be a number and"),
    ],
    ids=["aliases", "lists", "mappings", "keys", "items", "size", "float", "integer", "string"],
)
def test_what_could_take_for_ever_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_yaml(DataSpec, text, source="x.yaml")
    assert len(str(caught.value)) < 20_000


def test_an_integer_that_no_table_can_have() -> None:
    with pytest.raises(SpecError, match=r"`hash` must be at most 1,099,511,627,776, got 9{30}\."):
        parse_yaml(
            Spec,
            "name: a\ndata: {train: a}\ntasks: [{name: t, label: l}]\n"
            f"features: [{{name: f, type: sparse, hash: {'9' * 30}, dim: 4}}]\n",
        )


def test_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("train: 北京/*.parquet\n", encoding="utf-8")
    expected = DataSpec(train="北京/*.parquet", memory="2GiB")
    assert load_yaml(DataSpec, file, ["memory=2GiB"]) == expected


def test_no_such_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").touch()
    with pytest.raises(SpecError, match=r"no such file\. Beside it: `shop\.yaml`\.$"):
        load_yaml(DataSpec, tmp_path / "shp.yaml")
    with pytest.raises(SpecError, match=r"x\.yaml: there is no such file\.$"):
        load_yaml(DataSpec, tmp_path / "nowhere" / "x.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r": the file cannot be read: Is a directory\.$"):
        load_yaml(DataSpec, tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"train: a\nvalid: \xe9\n")
    with pytest.raises(SpecError, match=r"x\.yaml:2: this is not UTF-8 text: byte 0xe9\.$"):
        load_yaml(DataSpec, file)


def test_a_parquet_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1" + b"a" * 5_000_000)
    with pytest.raises(SpecError, match=r"x\.parquet: the text has 4,000,001 characters"):
        load_yaml(DataSpec, file)


def test_a_hundred_problems_are_enough() -> None:
    with pytest.raises(SpecError, match="unknown key `k0`") as caught:
        parse_yaml(DataSpec, "train: a\n" + "".join(f"k{i}: 1\n" for i in range(250)))
    lines = str(caught.value).split("\n")
    assert lines[-1] == "... and 150 more problems."
    assert len(lines) == 101


def test_a_problem_is_one_line_whatever_the_key() -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:1: unknown key `a\\nb`\.") as caught:
        parse_yaml(DataSpec, '{train: a, "a\\nb": 1}', source="x.yaml")
    assert "\n" not in str(caught.value)
