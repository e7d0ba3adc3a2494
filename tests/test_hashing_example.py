"""The published hash: its vectors are recmtl's, and the reference in C agrees with them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from recmtl.data.mappers import HashMapper
from tests.data import plain_encoding as plain

FOLDER = Path(__file__).parents[1] / "examples/hashing"


def published() -> list[dict]:
    return json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))


def test_vectors_are_what_the_script_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path / "vectors.json")
    assert (tmp_path / "vectors.json").read_bytes() == (FOLDER / "vectors.json").read_bytes()


def test_integers_are_the_formula() -> None:
    vectors = [v for v in published() if v["family"] == "int" and v["value"] is not None]
    assert {"-1", "0", str(2**63 - 1), str(-(2**63))} <= {v["value"] for v in vectors}
    for vector in vectors:
        expected = plain.splitmix64(int(vector["value"]) % 2**64)
        assert int(vector["hash"], 16) == expected
        for size, row in vector["rows"].items():
            assert row == 1 + expected % int(size)


def test_strings_that_the_reference_publishes() -> None:
    hashes = {v["value"]: v.get("hash") for v in published() if v["family"] == "string"}
    assert hashes[""] == "2d06800538d394c2"
    assert hashes["abc"] == "78af5f94892f3950"


def test_every_type_that_the_readme_names() -> None:
    rows = {v["value"]: v["rows"]["1000"] for v in published() if v["family"] == "int"}
    for dtype in (pl.Int8, pl.UInt16, pl.Int64, pl.Decimal(5, 0)):
        assert HashMapper(1000, "int")(pl.Series([1, 2], dtype=dtype)).tolist() == [
            rows["1"],
            rows["2"],
        ]
    assert HashMapper(1000, "int")(pl.Series([True, False])).tolist() == [rows["1"], rows["0"]]
    texts = {v["value"]: v["rows"]["1000"] for v in published() if v["family"] == "string"}
    category = pl.Series(["abc", ""], dtype=pl.Categorical)
    assert HashMapper(1000, "string")(category).tolist() == [texts["abc"], texts[""]]
    assert rows[None] == texts[None] == 0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    out = tmp_path_factory.mktemp("hash") / "recmtl_hash"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [compiler, *strict, "-o", str(out), str(FOLDER / "recmtl_hash.c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


def test_the_reference_in_c_agrees(program: Path) -> None:
    done = subprocess.run([program, FOLDER / "vectors.json"], capture_output=True, text=True)
    vectors = published()
    rows = sum(len(v["rows"]) for v in vectors)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(vectors)} vectors, {rows} rows, 0 wrong\n"


@pytest.mark.parametrize("part", ["hash", "rows"])
def test_the_reference_in_c_sees_a_wrong_vector(program: Path, tmp_path: Path, part: str) -> None:
    vectors = published()
    if part == "hash":
        vectors[20]["hash"] = f"{int(vectors[20]['hash'], 16) ^ 1:016x}"
    else:
        vectors[20]["rows"]["1000"] += 1
    file = tmp_path / "wrong.json"
    file.write_text("[\n" + ",\n".join(map(json.dumps, vectors)) + "\n]\n")
    done = subprocess.run([program, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(", ")[-1]) == (1, "1 wrong\n")
