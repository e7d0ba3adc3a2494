"""An HTTP scorer: rows of JSON in, scores out.

python examples/serving/server.py MODEL --port 8000

MODEL is a run, or what `recmtl export` made of one.

Any callable from frames to scores can take the place of `BatchScorer`: see `create_app`.
"""

# Annotations stay objects here: FastAPI reads those of functions that are made for one run.

import argparse
import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import polars as pl
import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from micro_batches import Batches, Scorer
from pydantic import Discriminator, Field, Tag
from rows import RowFormat

from recmtl import BatchScorer, Encoders, load_export
from recmtl.errors import DataError, RecMTLError, SpecError
from recmtl.exporting import ExportedScorer

MOST_ROWS = 10_000
"""In one request."""
MOST_PROBLEMS = 20
"""That an answer lists."""
PASS_ROWS = 64
"""Rows of a run's forward pass, to which each is padded; a batch job takes thousands at a time."""


def open_scorer(model: Path, tables: str | None = None) -> BatchScorer | ExportedScorer:
    """A run, or an export, as a scorer of few rows at a time.

    Args:
        model: its folder.
        tables: how embedding rows of a run are kept (default: `fp32`).

    Raises:
        RecMTLError: the model cannot be read, or `tables` is given of an export.
    """
    if (model / "certificate.json").is_file():
        if tables is not None:
            raise SpecError(f"{model}: an export has tables of its own. Leave `--tables` out.")
        return load_export(model)
    return BatchScorer(model, keep=(), tables=tables or "fp32", pass_rows=PASS_ROWS)


def create_app(scorer: Scorer, encoders: Encoders, name: str) -> FastAPI:
    """The service.

    Args:
        scorer: rows in, scores out.
        encoders: they say what a row must have.
        name: what `/health` calls the model.
    """
    rows = RowFormat(encoders)
    output = scorer(rows.neutral())  # reads the weights, and fails here if it fails at all
    batches = Batches(scorer)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        scoring = asyncio.create_task(batches.run())
        yield
        scoring.cancel()

    app = FastAPI(title="recmtl", lifespan=lifespan)
    Row = rows.model
    one_or_many = Annotated[
        Annotated[Row, Tag("row")] | Annotated[list[Row], Tag("rows"), Field(max_length=MOST_ROWS)],
        Discriminator(lambda body: "rows" if isinstance(body, list) else "row"),
        Body(),
    ]

    @app.post("/score")
    async def score(body: one_or_many) -> Any:
        """Scores of one row, an object, or of a list of rows, a list of them in the same order."""
        if body == []:
            return []
        frame = rows.frame(body if isinstance(body, list) else [body])
        try:
            found = (await batches.score(frame)).write_json()  # a list of objects
        except DataError as error:
            return _refused([await _first_problem(batches, frame, error)])
        text = found if isinstance(body, list) else found[1:-1]
        return Response(text, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers once scores can be had."""
        return {"status": "ok", "model": name}

    @app.get("/schema")
    async def schema() -> dict[str, Any]:
        """The JSON Schema of a row, and what is answered for it."""
        return {"row": Row.model_json_schema(), "scores": output.columns, "most_rows": MOST_ROWS}

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refused(list(_problems(error.errors(), rows)))

    return app


def _refused(problems: Sequence[dict[str, Any]]) -> JSONResponse:
    shown = problems[:MOST_PROBLEMS]
    return JSONResponse({"problems": shown, "num_problems": len(problems)}, status_code=422)


def _problems(errors: Sequence[Any], rows: RowFormat) -> Iterator[dict[str, Any]]:
    """What is wrong with which column of which row (counted from 0)."""
    for error in errors:
        _, *where = error["loc"]
        of = where.pop(0) if where else None
        row = where.pop(0) if of == "rows" and where else 0 if of == "row" else None
        column = str(where[0]) if where and row is not None else None
        found = "nothing" if error["type"] == "missing" else repr(error["input"])[:100]
        if column in rows.columns:
            expected = rows.columns[column].words
        elif column is not None:
            expected = "no such column"
        elif row is not None:
            expected = "an object with a value for each column"
        elif error["type"] == "json_invalid":
            expected, found = "JSON", error["ctx"]["error"]
        else:
            expected = error["msg"]
        yield {"row": row, "column": column, "expected": expected, "found": found}


async def _first_problem(batches: Batches, frame: pl.DataFrame, error: DataError) -> dict[str, Any]:
    """The first row that the scorer refuses, found by halving, and what it says of that row."""
    low, high = 0, frame.height
    while high - low > 1:
        middle = (low + high) // 2
        try:
            await batches.score(frame[low:middle])
        except DataError:
            high = middle
        else:
            low = middle
    try:
        await batches.score(frame[low:high])
    except DataError as alone:
        error = alone
    named = re.search(r"column `([^`]+)`", str(error))
    column = named[1] if named and named[1] in frame.columns else None
    found = "" if column is None else repr(frame.row(low, named=True)[column])[:100]
    return {"row": low, "column": column, "expected": str(error), "found": found}


def main() -> None:
    """Serve a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a run, or of an export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tables", help="of a run: fp32 (the default), fp16 or int8")
    args = parser.parse_args()
    try:
        scorer = open_scorer(args.model, args.tables)
        app = create_app(scorer, scorer.encoders, str(args.model))
    except RecMTLError as error:
        parser.exit(error.exit_code, f"{type(error).__name__}: {error}\n")
    uvicorn.run(app, host=args.host, port=args.port, limit_concurrency=1000, access_log=False)


if __name__ == "__main__":
    main()
