"""The HTTP scorer over a real socket: scores are the scorer's, bad rows are named."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest

from recmtl import BatchScorer, Encoders, export, load_spec
from recmtl.errors import DataError

WHY = "the server needs `pip install -r examples/serving/requirements.txt`"
pytest.importorskip("fastapi", reason=WHY)
uvicorn = pytest.importorskip("uvicorn", reason=WHY)
httpx = pytest.importorskip("httpx", reason=WHY)

SERVING = Path(__file__).parents[2] / "examples" / "serving"
sys.path.append(str(SERVING))

from micro_batches import Batches  # noqa: E402
from rows import RowFormat  # noqa: E402
from server import create_app  # noqa: E402

SPEC = """
name: all_kinds
data: {train: train.parquet, valid: valid.parquet}
features:
  - {name: user, type: sparse, vocab: {}, dim: 4}
  - {name: shop name, type: sparse, hash: 10, dim: 4, nulls: error}
  - {name: age, type: sparse, buckets: [20, 40], dim: 4}
  - {name: tags, type: sparse, vocab: {}, dim: 4, weights: tag_weights}
  - {name: seen, type: sequence, table: user, max_len: 3, nulls: error}
  - {name: price, type: dense, transform: log1p, fill: null}
  - {name: image, type: vector, dim: 2, nulls: error}
tasks:
  - {name: ctr, label: click}
tower: {kind: shared_bottom}
train: {batch_size: 8, epochs: 1, monitor: ctr/auc}
"""
ROW = {
    "user": 1,
    "shop name": "a",
    "age": 30.5,
    "tags": ["x", None],
    "tag_weights": [1.0, 2],
    "seen": [2, 1],
    "price": 3,
    "image": [0.5, 1],
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Fitted on a log with features of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    rows = [{**ROW, "price": 3.0, "image": [0.5, 1.0], "click": i % 2} for i in range(8)]
    for part in ("train", "valid"):
        pl.DataFrame(rows).write_parquet(folder / f"{part}.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return Encoders.fit(load_spec(folder / "spec.yaml"), folder)


class Half:
    """A scorer without a model: half of the price; negative prices are bad data."""

    def __init__(self) -> None:
        self.heights: list[int] = []

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        self.heights.append(frame.height)
        for price in frame["price"]:
            if price < 0:
                raise DataError(f"column `price`: {price} is negative, but must be at least 0.")
        return frame.select(half=pl.col("price") / 2)


@pytest.fixture(scope="module")
def half(encoders: Encoders) -> Iterator[httpx.Client]:
    """A client of the service around `Half`."""
    config = uvicorn.Config(create_app(Half(), encoders, "half"), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join(timeout=30)


def problems(client: httpx.Client, body: Any) -> list[dict[str, Any]]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/score", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    found = answer.json()
    assert found["num_problems"] == len(found["problems"]) > 0
    listed: list[dict[str, Any]] = found["problems"]
    return listed


def test_any_callable_from_frames_to_frames_can_be_served(half: httpx.Client) -> None:
    assert half.get("/health").json() == {"status": "ok", "model": "half"}
    assert half.post("/score", json=ROW).json() == {"half": 1.5}
    rows = [{**ROW, "price": i} for i in range(5)]
    assert half.post("/score", json=rows).json() == [{"half": i / 2} for i in range(5)]
    assert half.post("/score", json=[]).json() == []


def test_schema_says_what_a_row_must_have(half: httpx.Client) -> None:
    found = half.get("/schema").json()
    assert found["scores"] == ["half"]
    jsonschema.validate(ROW, found["row"])
    assert set(found["row"]["required"]) == ROW.keys()
    with pytest.raises(jsonschema.ValidationError, match="'shop name' is a required property"):
        jsonschema.validate({k: v for k, v in ROW.items() if k != "shop name"}, found["row"])


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("user", "1", "an integer or null"),
        ("user", 1.5, "an integer or null"),
        ("user", True, "an integer or null"),
        ("user", 2**63, "an integer or null"),
        ("shop name", 5, "a string"),
        ("shop name", None, "a string"),
        ("shop name", "\ud800", "a string"),
        ("age", "young", "a number or null"),
        ("tags", "x", "a list of strings or null"),
        ("tags", [1], "a list of strings or null"),
        ("tag_weights", [None], "a list of numbers or null"),
        ("tag_weights", [float("nan")], "a list of numbers or null"),
        ("seen", [1, None], "a list of integers"),
        ("seen", None, "a list of integers"),
        ("price", None, "a number"),
        ("image", [1], "a list of 2 finite numbers"),
        ("image", [1, float("inf")], "a list of 2 finite numbers"),
        ("other", 1, "no such column"),
    ],
)
def test_bad_value_is_named_by_row_and_column(
    half: httpx.Client, column: str, value: Any, expected: str
) -> None:
    (found,) = problems(half, [ROW, ROW, {**ROW, column: value}])
    assert (found["row"], found["column"], found["expected"]) == (2, column, expected)
    (alone,) = problems(half, {**ROW, column: value})
    assert alone == {**found, "row": 0}


def test_all_problems_are_told_at_once(half: httpx.Client) -> None:
    without = {column: value for column, value in ROW.items() if column != "age"}
    found = problems(half, [without, {**ROW, "price": "3", "user": []}])
    assert {(p["row"], p["column"], p["found"]) for p in found} == {
        (0, "age", "nothing"),
        (1, "price", "'3'"),
        (1, "user", "[]"),
    }


@pytest.mark.parametrize(
    ("body", "row", "expected"),
    [
        (b"{nope", None, "JSON"),
        (b"3", 0, "an object with a value for each column"),
        (b"[3]", 0, "an object with a value for each column"),
        (b'{"\\ud800": 3}', 0, "an object with a value for each column"),
    ],
)
def test_what_is_no_row_is_refused(
    half: httpx.Client, body: bytes, row: int | None, expected: str
) -> None:
    (found,) = problems(half, body)
    assert (found["row"], found["column"], found["expected"]) == (row, None, expected)


def test_a_row_that_the_scorer_refuses_is_found(half: httpx.Client) -> None:
    rows = [{**ROW, "price": -7 if i in (57, 80) else i} for i in range(100)]
    (found,) = problems(half, rows)
    assert (found["row"], found["column"], found["found"]) == (57, "price", "-7.0")
    assert found["expected"] == "column `price`: -7.0 is negative, but must be at least 0."


def test_rows_become_columns_of_the_types_that_features_have(encoders: Encoders) -> None:
    made = RowFormat(encoders)
    absent = dict.fromkeys(("user", "age", "tags", "tag_weights"))
    frame = made.frame([made.model.model_validate(row) for row in (ROW, {**ROW, **absent})])
    assert frame.select(list(ROW)).to_dicts() == [ROW, {**ROW, **absent}]
    assert frame.schema["user"] == pl.Int64
    assert frame.schema["image"] == frame.schema["tag_weights"] == pl.List(pl.Float64)
    assert encoders.encode(made.neutral(), labels=False).ids_FB.shape[1] == 1


def test_requests_that_wait_are_scored_together() -> None:
    scorer, prices = Half(), [[1.0], [2.0, 3.0], [-1.0], [4.0]]

    async def ask() -> list[Any]:
        batches = Batches(scorer, most_rows=100)
        asked = [asyncio.create_task(batches.score(pl.DataFrame({"price": p}))) for p in prices]
        gone = asyncio.create_task(batches.score(pl.DataFrame({"price": [9.0]})))
        await asyncio.sleep(0)
        gone.cancel()
        scoring = asyncio.create_task(batches.run())
        found = await asyncio.gather(*asked, return_exceptions=True)
        scoring.cancel()
        return found

    one, two, bad, four = asyncio.run(ask())
    assert [one["half"].to_list(), two["half"].to_list(), four["half"].to_list()] == [
        [0.5],
        [1.0, 1.5],
        [2.0],
    ]
    assert isinstance(bad, DataError)
    assert scorer.heights == [6, 1, 2, 1, 1, 1]  # together, and because that failed, one by one


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=["run", "export"])
def served(
    request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the service as a reader starts it, around a run and around an export."""
    port, model = free_port(), run
    if request.param == "export":
        model = tmp_path_factory.mktemp("exports") / "a"
        export(run, model, format="safetensors")
    command = [sys.executable, str(SERVING / "server.py"), str(model), "--port", str(port)]
    process = subprocess.Popen(command)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while True:
            assert process.poll() is None
            try:
                assert client.get("/health").json()["status"] == "ok"
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield client
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.slow
def test_scores_over_http_are_those_of_the_run(
    served: httpx.Client, run: Path, funnel: Path
) -> None:
    scorer = BatchScorer(run, keep=())
    columns = scorer.encoders.columns(labels=False)
    frame = pl.read_parquet(funnel / "test.parquet", columns=columns)[:300]
    expected = scorer(frame).to_dicts()

    def ask(start: int) -> list[dict[str, float]]:
        part = frame[start : start + start % 7 + 1].to_dicts()
        body = part if len(part) > 1 else part[0]
        found = served.post("/score", json=body).raise_for_status().json()
        return found if isinstance(found, list) else [found]

    starts = range(0, 280, 5)
    with ThreadPoolExecutor(8) as clients:
        for start, found in zip(starts, clients.map(ask, starts), strict=True):
            assert len(found) == start % 7 + 1
            for ours, theirs in zip(found, expected[start:], strict=False):
                assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_a_value_that_a_transform_forbids_is_named_by_its_row(
    served: httpx.Client, run: Path, funnel: Path
) -> None:
    columns = BatchScorer(run).encoders.columns(labels=False)
    rows = pl.read_parquet(funnel / "test.parquet", columns=columns)[:20].to_dicts()
    rows[13]["price"] = -5.0
    (found,) = problems(served, rows)
    assert (found["row"], found["column"], found["found"]) == (13, "price", "-5.0")
    assert "`log1p` needs at least 0" in found["expected"]


@pytest.mark.slow
def test_a_model_that_cannot_be_served_ends_with_one_sentence(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "a", format="safetensors")
    cases = [
        ([tmp_path / "nowhere"], 5, "CheckpointError: .* is not a run folder"),
        ([run, "--tables", "int3"], 2, "SpecError: tables: must be one of"),
        ([tmp_path / "a", "--tables", "int8"], 2, "SpecError: .* an export has tables of its own"),
    ]
    for arguments, code, message in cases:
        command = [sys.executable, str(SERVING / "server.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert re.match(message, done.stderr)


@pytest.mark.slow
def test_the_benchmark_prints_its_page(run: Path, funnel: Path) -> None:
    script = SERVING.parent / "benchmarks" / "serving.py"
    few = ("--seconds", "0.2", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, str(script), str(run), str(funnel / "test.parquet"), *few],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    cases = [tuple(map(int, row[:2])) for row in rows[2:]]
    assert cases == [(1, 1), (1, 4), (1, 16), (100, 1), (100, 4), (100, 16)]
    for row in rows[2:]:
        p50_ms, p99_ms, requests, answered = (float(cell.replace(",", "")) for cell in row[2:])
        assert 0 < p50_ms <= p99_ms
        assert answered >= requests > 0
