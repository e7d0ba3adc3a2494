"""Latency and throughput of `examples/serving`: one row, many rows, one client, several.

    python examples/benchmarks/serving.py MODEL LOG > examples/benchmarks/results/serving.md

Starts the server, asks it for rows of a Parquet log, and prints a page. Each case is measured in
several rounds that take turns with those of the others; the clients share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import polars as pl
from bench import ROOT, provenance

from recmtl import BatchScorer
from recmtl.exporting import ExportedScorer

SERVER = ROOT / "examples" / "serving" / "server.py"
sys.path.append(str(SERVER.parent))

from server import PASS_ROWS, open_scorer  # noqa: E402

DISTINCT = 64
"""Requests of a case differ; after so many they come again."""
START_TIMEOUT_S = 120


class Case(NamedTuple):
    """What clients ask."""

    rows: int
    """Rows of a request."""
    clients: int
    """Clients that ask at the same time, each one request after the other."""


class Round(NamedTuple):
    """What clients saw."""

    latencies_s: list[float]
    elapsed_s: float


CASES = [Case(rows, clients) for rows in (1, 100) for clients in (1, 4, 16)]


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a run, or an export")
    parser.add_argument("log", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round of a case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", help="of a run: fp32 (the default), fp16 or int8")
    args = parser.parse_args()
    scorer = open_scorer(args.model, args.tables)
    columns = scorer.encoders.columns(labels=False)
    most = DISTINCT * max(case.rows for case in CASES)
    log = pl.scan_parquet(args.log).select(columns).head(most).collect()
    bodies = {case: _bodies(log, case.rows) for case in CASES}
    rounds: dict[Case, list[Round]] = {case: [] for case in CASES}
    with _server(args.model, args.tables) as url:
        _check(url, scorer, log)
        for _ in range(args.rounds):
            for case in CASES:
                rounds[case].append(asyncio.run(_ask(url, bodies[case], case, args.seconds)))
    alone_ms = {rows: _in_memory_ms(scorer, log[:rows], args.seconds) for rows in (1, 100)}
    sys.stdout.write(_page(args, scorer, rounds, alone_ms))


def _bodies(log: pl.DataFrame, rows: int) -> list[bytes]:
    """Requests as they are sent."""
    starts = [i * rows % max(log.height - rows + 1, 1) for i in range(DISTINCT)]
    parts = [log[start : start + rows].to_dicts() for start in starts]
    return [json.dumps(part if rows > 1 else part[0]).encode() for part in parts]


@contextmanager
def _server(model: Path, tables: str | None) -> Iterator[str]:
    """A server that answers, as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, SERVER, model, "--port", port]
    command += ["--tables", tables] if tables else []
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"`{' '.join(map(str, command))}` does not answer.")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.ConnectError:
        return False


def _check(url: str, scorer: BatchScorer | ExportedScorer, log: pl.DataFrame) -> None:
    """What is measured is what the scorer says."""
    rows = log[:100]
    answer = httpx.post(f"{url}/score", json=rows.to_dicts(), timeout=60).raise_for_status()
    found, expected = pl.DataFrame(answer.json()), scorer(rows)
    for name in expected.columns:
        np.testing.assert_allclose(found[name].to_list(), expected[name].to_list(), atol=1e-6)


async def _ask(url: str, bodies: list[bytes], case: Case, seconds: float) -> Round:
    """Ask for a while."""
    latencies_s: list[float] = []
    headers = {"content-type": "application/json"}

    async def ask(client: httpx.AsyncClient, i: int) -> None:
        answer = await client.post("/score", content=bodies[i % DISTINCT])
        answer.raise_for_status()

    async def ask_on(client: httpx.AsyncClient, i: int) -> None:
        while (asked_s := time.perf_counter()) < until_s:
            await ask(client, i)
            latencies_s.append(time.perf_counter() - asked_s)
            i += 1

    async with AsyncExitStack() as stack:
        made = [
            httpx.AsyncClient(base_url=url, headers=headers, timeout=60)
            for _ in range(case.clients)
        ]
        clients = [await stack.enter_async_context(client) for client in made]
        await asyncio.gather(*(ask(client, i) for i, client in enumerate(clients)))  # connects
        start_s = time.perf_counter()
        until_s = start_s + seconds
        await asyncio.gather(*(ask_on(client, i) for i, client in enumerate(clients)))
        return Round(latencies_s, time.perf_counter() - start_s)


def _in_memory_ms(
    scorer: BatchScorer | ExportedScorer, rows: pl.DataFrame, seconds: float
) -> float:
    """Median milliseconds of a call of the scorer, without a server."""
    scorer(rows)
    found, until = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        scorer(rows)
        found.append(time.perf_counter() - start)
    return 1e3 * float(np.median(found))


def _page(
    args: argparse.Namespace,
    scorer: BatchScorer | ExportedScorer,
    rounds: dict[Case, list[Round]],
    alone_ms: dict[int, float],
) -> str:
    what = f"a `BatchScorer` ({args.tables or 'fp32'} tables, passes of {PASS_ROWS} rows)"
    if isinstance(scorer, ExportedScorer):
        what = f"an export to `{scorer.format}` ({scorer.tables} tables)"
    config = scorer.run.config if isinstance(scorer, BatchScorer) else scorer.config
    num_columns = len(scorer.encoders.columns(labels=False))
    servers = ", ".join(f"{name} {metadata.version(name)}" for name in ("fastapi", "uvicorn"))
    lines = [
        "# Serving over HTTP",
        "",
        f"`python examples/benchmarks/serving.py {' '.join(sys.argv[1:])}`; {provenance()}, "
        f"{servers}.",
        "",
        f"`examples/serving/server.py` around {what} of a run with a `{config.tower.kind}` tower, "
        f"{len(scorer.columns())} tasks and {num_columns} columns. A case is {args.rounds} times "
        f"{args.seconds:g} s. Clients wait for an answer before they ask again, on the machine of "
        "the server, each with a connection that stays open.",
        "",
        "| rows of a request | clients | p50 ms | p99 ms | requests/s | rows/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in CASES:
        latencies_s = [latency for one in rounds[case] for latency in one.latencies_s]
        p50_ms, p99_ms = 1e3 * np.percentile(latencies_s, [50, 99])
        per_s = len(latencies_s) / sum(one.elapsed_s for one in rounds[case])
        lines.append(
            f"| {case.rows} | {case.clients} | {p50_ms:.2f} | {p99_ms:.2f} | {per_s:,.0f} "
            f"| {per_s * case.rows:,.0f} |"
        )
    one, many = (f"{ms:.2f} ms" for ms in alone_ms.values())
    lines += ["", f"Without a server, the scorer takes {one} for 1 row and {many} for 100 (p50)."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
